"""The onboarding policy: its rules in the contract's order, each with its code and its reason."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.onboarding import (
    AuditEntry,
    Code,
    Facts,
    Mode,
    Policy,
    Stage,
    first_refusal,
    judge,
)

MAC = Mac("24:6F:28:B0:F7:F1")
AP = IPv4Network("192.168.10.0/24")
ORDER = ["enabled", "mode", "subnet", "deny", "already_onboarded", "rate"]

POLICY = Policy(
    mode=Mode.DEV,
    ap_subnet=AP,
    subnet_allowlist=(AP,),
    deny=frozenset(),
    own=frozenset({IPv4Address("192.168.10.1")}),
    allow_loopback=False,
)
FACTS = Facts(mac=MAC, ip="192.168.10.5", enabled=True, registered=False, tokens=1.0)

FAULTS = [
    ("enabled", {}, {"enabled": False}, Code.NOT_ENABLED),
    ("mode", {"mode": Mode.OFF}, {}, Code.NOT_ENABLED),
    ("subnet", {}, {"ip": "10.0.0.5"}, Code.SUBNET_NOT_ALLOWED),
    ("deny", {"deny": frozenset({MAC})}, {}, Code.DENIED),
    ("already_onboarded", {}, {"registered": True}, Code.ALREADY_ONBOARDED),
    ("rate", {}, {"tokens": 0.0}, Code.ONBOARD_RATE_LIMITED),
]


def test_who_was_taken_out_is_denied_with_the_reason():
    verdict = first_refusal(POLICY, replace(FACTS, dismissed="it was unpaired"))
    assert (verdict.rule, verdict.code, verdict.why) == ("deny", Code.DENIED, "it was unpaired")


def with_faults(faults):
    policy, facts = POLICY, FACTS
    for _, policy_change, facts_change, _ in faults:
        policy, facts = replace(policy, **policy_change), replace(facts, **facts_change)
    return policy, facts


def test_a_camera_that_breaks_no_rule_passes():
    assert first_refusal(POLICY, FACTS) is None
    verdicts = list(judge(POLICY, FACTS))
    assert [verdict.rule for verdict in verdicts] == ORDER
    assert all(verdict.passed and verdict.code is None and verdict.why for verdict in verdicts)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0])
def test_each_rule_refuses_alone_and_leaves_the_others_passed(fault):
    rule, *_, code = fault
    verdicts = {verdict.rule: verdict for verdict in judge(*with_faults([fault]))}
    assert [name for name in ORDER if not verdicts[name].passed] == [rule]
    assert verdicts[rule].code is code
    assert first_refusal(*with_faults([fault])) == verdicts[rule]


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=ORDER)
def test_the_first_rule_that_fails_decides(first):
    refusal = first_refusal(*with_faults(FAULTS[first:]))
    assert (refusal.rule, refusal.code) == (FAULTS[first][0], FAULTS[first][3])


@pytest.mark.parametrize(
    "ip, code",
    [
        (None, Code.NO_ADDRESS),
        ("127.0.0.1", Code.SUBNET_NOT_ALLOWED),
        ("192.168.10.1", Code.SUBNET_NOT_ALLOWED),
        ("192.168.10.255", Code.SUBNET_NOT_ALLOWED),
        ("169.254.1.1", Code.SUBNET_NOT_ALLOWED),
        ("::ffff:192.168.10.5", Code.SUBNET_NOT_ALLOWED),
        ("camera.local", Code.SUBNET_NOT_ALLOWED),
        ("", Code.SUBNET_NOT_ALLOWED),
    ],
)
def test_the_subnet_rule_says_whether_there_was_an_address_at_all(ip, code):
    refusal = first_refusal(POLICY, replace(FACTS, ip=ip))
    assert (refusal.rule, refusal.code) == ("subnet", code)


@pytest.mark.parametrize("tokens, passed", [(0.0, False), (0.99, False), (1.0, True), (1.0 - 1e-12, True), (5.0, True)])
def test_the_rate_rule_agrees_with_the_bucket_about_a_whole_token(tokens, passed):
    assert (first_refusal(POLICY, replace(FACTS, tokens=tokens)) is None) is passed


@pytest.mark.parametrize(
    "stage, failed",
    [
        (Stage.DISCOVERED, False),
        (Stage.VERIFIED, False),
        (Stage.REGISTERED, False),
        (Stage.PAIRED, False),
        (Stage.FAILED, True),
        (Stage.REJECTED, True),
    ],
)
def test_an_audit_row_is_a_success_or_a_failure(stage, failed):
    assert AuditEntry(mac=MAC, stage=stage).failed is failed


def test_the_words_are_those_of_the_contract():
    assert {stage.value for stage in Stage} == {
        "discovered",
        "verified",
        "registered",
        "paired",
        "failed",
        "rejected_by_policy",
    }
    contract = """VERIFY_TIMEOUT VERIFY_UNREACHABLE VERIFY_BAD_STATUS VERIFY_BAD_BODY MAC_MISMATCH NO_ADDRESS
        CONTAINER_FULL CONTAINER_UNKNOWN SUBNET_NOT_ALLOWED DENIED NOT_ENABLED ONBOARD_RATE_LIMITED"""
    assert {code.value for code in Code} - {"ALREADY_ONBOARDED"} == set(contract.split())
