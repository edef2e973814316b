"""Reading the rules file: valid rules apply and faults are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from btc_assets.alerts.rules import BOUNDED, UNBOUNDED, RuleError, read_rules
from btc_assets.settings import Settings

GOOD = '[[rule]]\nname = "fall"\nkind = "drawdown"\nbound = 0.1\nseverity = "high"\nquiet_hours = 2\n'


def test_the_built_in_rules_cover_every_kind() -> None:
    book = read_rules(Settings.model_fields["alert_rules"].default)
    assert {rule.kind for rule in book.rules} == BOUNDED | UNBOUNDED
    assert book.of("price_move")[0].bound == 0.05
    assert "email" in book.routing["high"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace('"fall"', '"Fall!"'), "name"),
        (GOOD.replace('"drawdown"', '"weather"'), "kind is 'weather'; expected one of"),
        (GOOD.replace("bound = 0.1\n", ""), "needs a bound"),
        (GOOD.replace('"drawdown"', '"promotion"'), "has no bound"),
        (GOOD.replace("0.1", '"much"'), "bound is 'much'"),
        (GOOD.replace("0.1", "nan"), "bound is nan"),
        (GOOD.replace("quiet_hours = 2", "quiet_hours = -1"), "quiet_hours is -1"),
        (GOOD.replace('"high"', '"dire"'), "severity is 'dire'"),
        (GOOD + "louder = true\n", "unknown field 'louder'"),
        (GOOD + GOOD, "two rules are named 'fall'"),
        (GOOD + '[routing]\nhigh = ["pigeon"]\n', "a list of"),
        (GOOD + '[routing]\ndire = ["log"]\n', "unknown severity 'dire'"),
        ("[rules]\n", "neither"),
        ('[routing]\nhigh = "log"\n', "using log, webhook, email"),
    ],
)
def test_a_fault_is_reported_and_other_rules_apply(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nname = "other"\nkind = "failed_run"\nseverity = "high"\n' + text)
    book = read_rules(path)
    [fault] = book.faults
    assert expected in fault
    assert str(path) in fault
    assert "other" in {rule.name for rule in book.rules}
    assert book.routing["high"]


@pytest.mark.parametrize("content", [None, b"[[rule]\n", b"\xff\xfe"])
def test_an_unreadable_file_is_an_error_that_names_the_setting(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "rules.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RuleError, match="BTC_ALERT_RULES"):
        read_rules(path)


def test_a_severity_without_a_route_goes_to_the_log(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(GOOD)
    assert set(read_rules(path).routing.values()) == {("log",)}
