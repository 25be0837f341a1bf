"""When a worker that died is started again: ever later, never in step with the others, anew once one has stood."""

from hypothesis import given
from hypothesis import strategies as st

from prsm.cli.workers import Past, Respawn, after_death, as_env, pause_s
from prsm.core.config import load_settings

POLICY = Respawn(first_s=0.5, most_s=30, steady_s=10, tries=5)


def row(*lives: float | None) -> Past:
    past = Past()
    for up_s in lives:
        past = after_death(past, up_s, POLICY)
    return past


def test_the_longest_pause_doubles_with_each_death_up_to_its_bound() -> None:
    pauses = [pause_s(row(*[1.0] * deaths), POLICY, 1.0) for deaths in range(1, 9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_a_pause_lies_anywhere_from_zero_to_its_bound(deaths: int, chance: float) -> None:
    past = Past(deaths)
    assert pause_s(past, POLICY, chance) == chance * pause_s(past, POLICY, 1.0) <= POLICY.most_s
    assert pause_s(past, POLICY, 0.0) == 0


def test_one_that_stood_a_while_begins_a_new_row() -> None:
    assert row(1.0, 9.9, None) == Past(3, came_up=True)
    assert row(1.0, 9.9, 10.0) == Past(1, came_up=True)


def test_only_one_that_never_came_up_is_told_from_the_rest() -> None:
    assert row(None, None) == Past(2, came_up=False)
    assert row(None, 0.0, None) == Past(3, came_up=True)


def test_a_worker_reads_every_setting_as_its_parent_has_it() -> None:
    given = {
        "home": "/h", "host": "::1", "teacher_enabled": "false", "log_level": "debug", "welcome_grant_micro": "7",
        "storage_nodes": "http://a:1, https://b", "storage_private_hosts": "[::1]:2",
    }  # fmt: skip
    settings = load_settings({}, given).settings
    assert load_settings(as_env(settings), {}).settings == settings
