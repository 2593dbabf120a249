"""What a Pub/Sub tail knows of its subscriptions: confirmed, on their way, or lost with the connection."""

from tidewire.transports.redis.subscriptions import Subscriptions


def subscribed(*partitions: str) -> Subscriptions:
    """Subscriptions to these partitions that Redis has confirmed."""
    one = Subscriptions()
    one.follow(partitions)
    one.note_command(partitions)
    for name in partitions:
        assert not one.confirm(name, subscribed=True)
    return one


def test_nothing_is_followed_at_first() -> None:
    one = Subscriptions()
    assert one.are_over
    assert one.are_confirmed
    assert one.pending("a") == 0
    assert (one.followed, one.confirmed) == (set(), set())


def test_each_partition_must_be_confirmed() -> None:
    one = Subscriptions()
    one.follow(name for name in "ab")
    one.note_command(name for name in "ab")
    assert (one.pending("a"), one.pending("b")) == (1, 1)
    assert not one.confirm("a", subscribed=True)
    assert one.confirmed == {"a"}
    assert not one.followed <= one.confirmed
    assert not one.confirm("b", subscribed=True)
    assert one.are_confirmed
    assert not one.are_over
    assert (one.pending("a"), one.pending("b")) == (0, 0)


def test_one_of_two_partitions_is_not_enough() -> None:
    one = subscribed("a")
    one.follow("b")
    assert not one.are_confirmed


def test_the_last_of_several_commands_counts() -> None:
    one = subscribed("a", "b")
    one.note_command(["a"])
    one.note_command(["a"])
    one.note_command(["a"])
    assert one.confirmed == {"b"}
    assert not one.confirm("a", subscribed=False)
    assert not one.confirm("a", subscribed=True)
    assert one.confirmed == {"b"}
    assert one.pending("a") == 1
    assert not one.confirm("a", subscribed=True)
    assert one.confirmed == {"a", "b"}


def test_an_unsubscription_confirms_nothing() -> None:
    one = subscribed("a")
    one.unfollow(["a"])
    one.note_command(["a"])
    assert not one.are_over, "a confirmation is on its way"
    assert not one.confirm("a", subscribed=False)
    assert one.confirmed == set()
    assert one.are_over


def test_what_was_lost_with_a_connection_is_a_gap_once() -> None:
    one = subscribed("a", "b")
    one.follow(["c"])
    one.connection_lost()
    assert one.confirmed == set()
    one.note_command("abc")
    assert one.confirm("a", subscribed=True)
    assert not one.confirm("c", subscribed=True), "it was never confirmed"
    one.note_command("a")
    assert not one.confirm("a", subscribed=True)
    assert one.confirm("b", subscribed=True)


def test_a_loss_is_remembered_over_several_connections() -> None:
    one = subscribed("a")
    one.connection_lost()
    one.note_command("a")
    one.connection_lost()
    assert one.pending("a") == 0
    one.note_command("a")
    assert one.confirm("a", subscribed=True)


def test_what_was_unfollowed_before_the_loss_has_no_gap() -> None:
    one = subscribed("a", "b")
    one.unfollow(name for name in "a")
    one.connection_lost()
    one.follow("a")
    one.note_command("ab")
    assert not one.confirm("a", subscribed=True)
    assert one.confirm("b", subscribed=True)


def test_what_was_unfollowed_after_the_loss_has_no_gap() -> None:
    one = subscribed("a", "b")
    one.connection_lost()
    one.unfollow(name for name in "ax")
    assert one.followed == {"b"}
    one.follow("a")
    one.note_command("ab")
    assert not one.confirm("a", subscribed=True)
    assert one.confirm("b", subscribed=True)


def test_an_unsubscription_leaves_the_gap_to_the_next_one() -> None:
    one = subscribed("a")
    one.connection_lost()
    one.note_command("a")
    assert not one.confirm("a", subscribed=False)
    one.note_command("a")
    assert one.confirm("a", subscribed=True)
