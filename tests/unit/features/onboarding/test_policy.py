"""Onboarding policy: the rules in the contract's order, each with its code and reason."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from pi_orchestrator.core.error_codes import VerificationCode
from pi_orchestrator.core.mac import Mac
from pi_orchestrator.features.onboarding.onboarding_event import OnboardingEvent, Stage
from pi_orchestrator.features.onboarding.policy import Facts, Policy, RejectionCode, evaluate, first_failed_rule
from pi_orchestrator.settings.model import Mode

MAC = Mac("24:6F:28:B0:F7:F1")
AP = IPv4Network("192.168.10.0/24")
ORDER = ["enabled", "mode", "subnet", "deny", "already_onboarded", "rate"]

POLICY = Policy(
    mode=Mode.DEV,
    ap_subnet=AP,
    subnet_allowlist=(AP,),
    deny=frozenset(),
    own_addresses=frozenset({IPv4Address("192.168.10.1")}),
    allow_loopback=False,
)
FACTS = Facts(mac=MAC, ip="192.168.10.5", enabled=True, registered=False, tokens=1.0)

FAULTS = [
    ("enabled", {}, {"enabled": False}, RejectionCode.NOT_ENABLED),
    ("mode", {"mode": Mode.OFF}, {}, RejectionCode.NOT_ENABLED),
    ("subnet", {}, {"ip": "10.0.0.5"}, VerificationCode.SUBNET_NOT_ALLOWED),
    ("deny", {"deny": frozenset({MAC})}, {}, RejectionCode.DENIED),
    ("already_onboarded", {}, {"registered": True}, RejectionCode.ALREADY_ONBOARDED),
    ("rate", {}, {"tokens": 0.0}, RejectionCode.ONBOARD_RATE_LIMITED),
]


def test_excluded_camera_is_denied():
    result = first_failed_rule(POLICY, replace(FACTS, exclusion_reason="it was unpaired"))
    assert (result.rule, result.code, result.why) == ("deny", RejectionCode.DENIED, "it was unpaired")


def apply_faults(faults):
    policy, facts = POLICY, FACTS
    for _, policy_change, facts_change, _ in faults:
        policy, facts = replace(policy, **policy_change), replace(facts, **facts_change)
    return policy, facts


def test_camera_that_breaks_no_rule_passes():
    assert first_failed_rule(POLICY, FACTS) is None
    results = list(evaluate(POLICY, FACTS))
    assert [result.rule for result in results] == ORDER
    assert all(result.passed and result.code is None and result.why for result in results)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0])
def test_each_rule_fails_independently(fault):
    rule, *_, code = fault
    results = {result.rule: result for result in evaluate(*apply_faults([fault]))}
    assert [name for name in ORDER if not results[name].passed] == [rule]
    assert results[rule].code is code
    assert first_failed_rule(*apply_faults([fault])) == results[rule]


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=ORDER)
def test_first_failed_rule_decides(first):
    failed = first_failed_rule(*apply_faults(FAULTS[first:]))
    assert (failed.rule, failed.code) == (FAULTS[first][0], FAULTS[first][3])


@pytest.mark.parametrize(
    "ip, code",
    [
        (None, RejectionCode.NO_ADDRESS),
        ("127.0.0.1", VerificationCode.SUBNET_NOT_ALLOWED),
        ("192.168.10.1", VerificationCode.SUBNET_NOT_ALLOWED),
        ("192.168.10.255", VerificationCode.SUBNET_NOT_ALLOWED),
        ("169.254.1.1", VerificationCode.SUBNET_NOT_ALLOWED),
        ("::ffff:192.168.10.5", VerificationCode.SUBNET_NOT_ALLOWED),
        ("camera.local", VerificationCode.SUBNET_NOT_ALLOWED),
        ("", VerificationCode.SUBNET_NOT_ALLOWED),
    ],
)
def test_subnet_rule_rejects_bad_addresses(ip, code):
    failed = first_failed_rule(POLICY, replace(FACTS, ip=ip))
    assert (failed.rule, failed.code) == ("subnet", code)


@pytest.mark.parametrize("tokens, passed", [(0.0, False), (0.99, False), (1.0, True), (1.0 - 1e-12, True), (5.0, True)])
def test_rate_rule_needs_a_whole_token(tokens, passed):
    assert (first_failed_rule(POLICY, replace(FACTS, tokens=tokens)) is None) is passed


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
def test_onboarding_event_outcome_follows_stage(stage, failed):
    assert OnboardingEvent(mac=MAC, stage=stage).failed is failed


def test_codes_and_stages_match_contract():
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
    assert {code.value for code in (*RejectionCode, *VerificationCode)} - {"ALREADY_ONBOARDED"} == set(contract.split())
