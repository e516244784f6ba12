"""Host metrics: real files of a Pi, missing files, invalid content."""

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi_orchestrator.net.host import readings as host
from pi_orchestrator.net.host.reader import HostReader
from pi_orchestrator.net.host.readings import Cpu, CpuTimes, Host, HostStatus, Space

PI_4_STAT = """\
cpu  182736 1204 61877 9876543 20311 0 3120 0 0 0
cpu0 45812 301 15890 2468001 5102 0 2801 0 0 0
cpu1 45601 287 15322 2469344 5077 0 110 0 0 0
cpu2 45900 310 15301 2469511 5066 0 105 0 0 0
cpu3 45423 306 15364 2469687 5066 0 104 0 0 0
intr 61234567 0 0 4231 1203344 0 0 0
ctxt 98765432
btime 1769091234
processes 22871
procs_running 1
procs_blocked 0
softirq 21345678 34 5678901 12 1203344 0 0 98 6543210 0 7890123
"""
PI_4_LATER = """\
cpu  182836 1204 61927 9876743 20361 0 3120 0 0 0
cpu0 45812 301 15890 2468101 5102 0 2801 0 0 0
cpu1 45701 287 15322 2469344 5077 0 110 0 0 0
cpu2 45900 310 15351 2469561 5066 0 105 0 0 0
cpu3 45423 306 15364 2469737 5116 0 104 0 0 0
"""
PI_4_MEMORY = """\
MemTotal:        3885396 kB
MemFree:         2411340 kB
MemAvailable:    3312244 kB
Buffers:           61044 kB
Cached:           872164 kB
SwapCached:            0 kB
Active(anon):     251000 kB
SwapTotal:        102396 kB
HugePages_Total:       0
CmaTotal:         524288 kB
"""
PI_ZERO_2_STAT = "cpu  9021 0 5210 301200 880 0 77 0 0 0\ncpu0 9021 0 5210 301200 880 0 77 0 0 0\n"
PI_ZERO_2_MEMORY = "MemTotal:         436124 kB\nMemFree:           31200 kB\nMemAvailable:      58560 kB\n"
OLD_KERNEL_MEMORY = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 50 kB\nCached: 150 kB\n"

GARBAGE = st.text(max_size=300) | st.lists(
    st.sampled_from(["cpu", "cpu0", " 12", " -1", " 1e9", "\n", "MemTotal:", " kB", "\x00", "9" * 30, "٣", "nan", " "]),
    max_size=40,
).map("".join)


def test_cpu_usage_of_pi_4():
    before, after = host.parse_cpu(PI_4_STAT), host.parse_cpu(PI_4_LATER)
    assert list(before) == ["", "0", "1", "2", "3"]
    assert before[""] == CpuTimes(
        busy=182736 + 1204 + 61877 + 3120, total=182736 + 1204 + 61877 + 9876543 + 20311 + 3120
    )
    assert host.usage(before, after) == Cpu(37.5, (0.0, 100.0, 50.0, 0.0)), "iowait is not busy"


def test_cpu_usage_without_interval():
    now = host.parse_cpu(PI_ZERO_2_STAT)
    assert host.usage({}, now) == Cpu(4.5, (4.5,)), "since boot"
    assert host.usage(now, now) == Cpu(0.0, (0.0,))


def test_cpu_usage_with_changed_cores():
    before = {"": CpuTimes(100, 1000), "0": CpuTimes(100, 1000), "7": CpuTimes(5, 5)}
    after = {"": CpuTimes(90, 1100), "0": CpuTimes(300, 1100), "1": CpuTimes(30, 40), "10": CpuTimes(0, 10)}
    assert host.usage(before, after) == Cpu(0.0, (100.0, 75.0, 0.0)), "ordered by number"
    assert host.usage(after, {}) == Cpu()


@pytest.mark.parametrize(
    "text, total, available, percent",
    [
        (PI_4_MEMORY, 3885396, 3312244, 14.8),
        (PI_ZERO_2_MEMORY, 436124, 58560, 86.6),
        (OLD_KERNEL_MEMORY, 1000, 300, 70.0),
        ("MemTotal: 100 kB\nMemAvailable: 900 kB\n", 100, 100, 0.0),
        ("", 0, 0, 0.0),
    ],
)
def test_memory_is_parsed(text, total, available, percent):
    memory = host.parse_memory(text)
    assert memory == Space(total * 1024, (total - available) * 1024, available * 1024)
    assert memory.percent == percent


@pytest.mark.parametrize(
    "text, load",
    [
        ("0.52 0.58 0.59 1/189 12345\n", (0.52, 0.58, 0.59)),
        ("", (0, 0, 0)),
        ("1 2", (0, 0, 0)),
        ("1 2 three", (0, 0, 0)),
        ("nan inf 1", (0, 0, 0)),
        ("-1 0 0", (0, 0, 0)),
    ],
)
def test_load_is_parsed(text, load):
    assert host.parse_load(text) == load


@pytest.mark.parametrize(
    "sensors, degrees",
    [
        ([("cpu-thermal", "48312\n")], 48.3),
        ([("cpu_thermal", "61835\n"), ("rp1_adc", "70123\n")], 61.8),
        ([("acpitz", "27800"), ("x86_pkg_temp", "55000"), ("coretemp", "57000")], 57.0),
        ([("iwlwifi_1", "41000"), ("acpitz", "27800")], 41.0),
        ([("cpu-thermal", "-2500")], -2.5),
        ([("cpu-thermal", "-127000"), ("x", "255000"), ("y", ""), ("z", "hot"), ("z", "9" * 5000)], 0.0),
        ([], 0.0),
    ],
)
def test_temperature_prefers_cpu_sensor(sensors, degrees):
    assert host.temperature(sensors) == degrees


@given(GARBAGE, GARBAGE)
def test_any_text_gives_valid_metrics(text, other):
    cpu = host.usage(host.parse_cpu(text), host.parse_cpu(other))
    assert 0 <= cpu.percent <= 100
    assert all(0 <= core <= 100 for core in cpu.per_core)
    memory = host.parse_memory(text)
    assert 0 <= memory.used <= memory.total
    assert 0 <= memory.percent <= 100
    assert min(host.parse_load(text)) >= 0
    assert host.MIN_CELSIUS <= host.temperature([(text, other), (other, text)]) <= host.MAX_CELSIUS


def make_host(**metrics):
    healthy = {"cpu": Cpu(10.0), "memory": Space(100, 20, 80), "disk": Space(100, 20, 80), "temperature": 40.0}
    return Host(**(healthy | metrics), load=(0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    "metrics, status, reasons",
    [
        ({}, HostStatus.HEALTHY, []),
        ({"cpu": Cpu(84.9)}, HostStatus.HEALTHY, []),
        ({"cpu": Cpu(85.0)}, HostStatus.WARNING, ["processor at 85 % (warning from 85 % on)"]),
        ({"cpu": Cpu(97.0)}, HostStatus.CRITICAL, ["processor at 97 % (critical from 97 % on)"]),
        ({"memory": Space(1000, 799, 201)}, HostStatus.HEALTHY, []),
        ({"memory": Space(1000, 800, 200)}, HostStatus.WARNING, ["memory at 80 % (warning from 80 % on)"]),
        ({"disk": Space(1000, 950, 50)}, HostStatus.CRITICAL, ["disk at 95 % (critical from 95 % on)"]),
        ({"temperature": 69.9}, HostStatus.HEALTHY, []),
        ({"temperature": 80.0}, HostStatus.CRITICAL, ["temperature at 80 °C (critical from 80 °C on)"]),
        (
            {"temperature": 71.6, "disk": Space(1000, 960, 40), "cpu": Cpu(90.0)},
            HostStatus.CRITICAL,
            [
                "processor at 90 % (warning from 85 % on)",
                "disk at 96 % (critical from 95 % on)",
                "temperature at 71.6 °C (warning from 70 °C on)",
            ],
        ),
    ],
)
def test_status_is_the_worst_metric(metrics, status, reasons):
    assert host.overall_status(make_host(**metrics)) == (status, reasons)


# HostReader.


def write(folder, files):
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def pi(tmp_path):
    write(
        tmp_path,
        {
            "proc/stat": PI_4_STAT,
            "proc/meminfo": PI_4_MEMORY,
            "proc/loadavg": "0.52 0.58 0.59 1/189 12345\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "48312\n",
            "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
            "sys/class/hwmon/hwmon0/temp1_input": "99000\n",
        },
    )
    return tmp_path


def reader(folder, clock):
    return HostReader(clock=clock, folder=folder, proc=folder / "proc", system=folder / "sys")


async def test_reader_reads_pi(pi, clock):
    host_now = await reader(pi, clock).read()
    assert (host_now.temperature, host_now.load) == (48.3, (0.52, 0.58, 0.59))
    assert (host_now.memory.percent, len(host_now.cpu.per_core)) == (14.8, 4)
    disk = os.statvfs(pi)
    assert host_now.disk.total == disk.f_blocks * disk.f_frsize
    assert 0 < host_now.disk.used < host_now.disk.total
    assert host_now.disk.percent == round(100 * host_now.disk.used / host_now.disk.total, 1)


async def test_reader_falls_back_to_hwmon(pi, clock):
    (pi / "sys/class/thermal/thermal_zone0/temp").unlink()
    assert (await reader(pi, clock).read()).temperature == 99.0


async def test_reader_without_files_reports_zero(tmp_path, clock):
    host_now = await reader(tmp_path / "nowhere", clock).read()
    assert host_now == Host(Cpu(), Space(), Space(), 0.0, (0.0, 0.0, 0.0))
    assert host.overall_status(host_now) == (HostStatus.HEALTHY, [])


async def test_cpu_usage_covers_time_between_reads(pi, clock):
    host_reader = reader(pi, clock)
    assert (await host_reader.read()).cpu.percent == 0.0, "no ticks in the first interval"
    write(pi, {"proc/stat": PI_4_LATER})
    assert (await host_reader.read()).cpu.percent == 0.0, "reading is cached"
    await clock.advance(5)
    assert (await host_reader.read()).cpu == Cpu(37.5, (0.0, 100.0, 50.0, 0.0))
    await clock.advance(3600)
    write(pi, {"proc/stat": PI_4_STAT})
    assert (await host_reader.read()).cpu.percent == 0.0, "a stale interval starts again"


async def test_concurrent_callers_share_reading(pi, clock, monkeypatch):
    host_reader, reads = reader(pi, clock), []
    read = host_reader._read
    monkeypatch.setattr(host_reader, "_read", lambda **kwargs: reads.append(kwargs) or read(**kwargs))
    tasks = [asyncio.ensure_future(host_reader.read()) for _ in range(20)]
    await asyncio.sleep(0)
    tasks.pop(0).cancel()
    assert len(set(map(id, await asyncio.gather(*tasks)))) == 1
    assert reads == [{"is_recent": False}]


def test_reader_reads_this_machine(tmp_path):
    async def read():
        from pi_orchestrator.core.clock import Clock

        return await HostReader(clock=Clock(), folder=tmp_path).read()

    host_now = asyncio.run(read())
    assert host_now.memory.total > 0
    assert len(host_now.cpu.per_core) >= 1
