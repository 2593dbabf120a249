"""The price table: dated, with a source per price; a wrong one is refused with the path of its key."""

import datetime as dt
import tomllib
from pathlib import Path

import pytest
from tidewire.errors import SettingsError
from tidewire.tools.cost.prices import KEYS, PLANS, TABLE, Price, load

from tests.integration.cost.tables import SHIPPED, written


def test_each_shipped_price_has_its_date_and_source() -> None:
    content = tomllib.loads(TABLE.read_text())
    assert dt.date.fromisoformat(SHIPPED.date) == content.pop("date")
    assert (content.pop("currency"), content.pop("region")) == ("USD", "us-east-1")
    assert content.keys() == {*KEYS, PLANS}
    for key, row in content.items():
        assert row["source"].startswith("https://"), key
        assert len(row["seen"]) > 10, key
        assert SHIPPED.source(key) == row["source"]
    assert "CHECK IT BEFORE YOU RELY ON IT" in TABLE.read_text()


def test_what_is_free_and_each_step_counts_once() -> None:
    price = Price("GB", 0.09, 100, ((10_240, 0.085), (51_200, 0.07)), "-")
    assert price.of(0) == price.of(100) == 0
    assert price.of(101) == pytest.approx(0.09)
    assert price.of(10_240) == pytest.approx(10_140 * 0.09)
    assert price.of(60_000) == pytest.approx(10_140 * 0.09 + 40_960 * 0.085 + 8_800 * 0.07)


def test_a_price_is_for_as_many_units_as_its_row_says() -> None:
    assert SHIPPED["redis-commands"].of(1_000_000) == pytest.approx(2.00)
    assert SHIPPED["lambda-requests"].of(3_000_000) == pytest.approx(0.40), "a million is free"
    assert load(free_tiers=False)["lambda-requests"].of(3_000_000) == pytest.approx(0.60)


def test_a_custom_table_is_used(tmp_path: Path) -> None:
    ours = load(written(tmp_path, ('region = "us-east-1"', 'region = "eu-central-1"'), ("price = 0.09", "price = 0.1")))
    assert (ours.region, ours["egress-gb"].each) == ("eu-central-1", 0.1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("price = 0.20\nper = 1_000_000", "per = 1_000_000", "lambda-requests.price is missing"),
        ("price = 0.20", 'price = "0.20"', "lambda-requests.price must be a number, 0 or more"),
        ("price = 0.20", "price = -0.20", "lambda-requests.price must be a number, 0 or more"),
        ("price = 0.20", "price = true", "lambda-requests.price must be a number, 0 or more"),
        ("price = 0.20", "price = nan", "lambda-requests.price must be a number, 0 or more"),
        ("per = 1_000_000", "per = 0", "lambda-requests.per must be a number, 1 or more"),
        ("free = 1_000_000", "fre = 1_000_000", "lambda-requests.fre is unknown"),
        ("[lambda-requests]", "[lamda-requests]", "lambda-requests is missing"),
        ("[lambda-requests]", "[lamda-requests]", "lamda-requests is unknown"),
        ("date = 2026-11-26", 'date = "today"', "date must be the date of these prices"),
        ("date = 2026-11-26", "date = 2026-11-26T10:00:00Z", "date must be the date of these prices"),
        ("above = 18_750_000_000", "above = 1", "lambda-gb-seconds.steps[1].above must be more than"),
        ("storage = 0.25, ", "", "redis-plans.plans[0].storage is missing"),
        ('currency = "USD"', 'currency = ""', "currency must be a string of one line"),
    ],
)
def test_an_error_names_the_path_of_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    """And never its value."""
    file = written(tmp_path, (old, new))
    with pytest.raises(SettingsError) as raised:
        load(file)
    problem = next(line for line in str(raised.value).splitlines() if message in line)
    assert problem.startswith(f"ours.toml: {message}")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "ours.toml"
    with pytest.raises(SettingsError, match=r"^ours\.toml: cannot be read \(FileNotFoundError\)$"):
        load(file)
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"^ours\.toml: is not UTF-8 \(at byte 0\)$"):
        load(file)
    file.write_text("date = 2026-11-26\nprice 1")
    with pytest.raises(SettingsError, match=r"^ours\.toml: is not valid TOML: .* \(at line 2"):
        load(file)
