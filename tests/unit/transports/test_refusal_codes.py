"""One refusal has the same code, however a kind of server words it: the replies are those of the servers themselves."""

import pytest
from tidewire.transports.errors import CommandError

REFUSED = "User u has no permissions to run the 'xadd' command"
CANNOT = "The user executing the script can't run this command or subcommand"
KEYDB = "Error running script (call to f_1): @user_script:1: "


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"NOPERM {REFUSED}", "NOPERM"),
        (
            "ERR The user executing the script can't run this command or subcommand script: 1, on @user_script:1.",
            "NOPERM",
        ),
        (f"ERR ACL failure in script: {REFUSED} script: 1, on @user_script:1.", "NOPERM"),  # Redis 7.2, Valkey 8
        (f"ERR ACL failure in script: {REFUSED} script: on @user_script:1.", "NOPERM"),  # Valkey 9
        (f"ERR {KEYDB}@user_script: 1: {CANNOT}", "NOPERM"),
        (f"@user_script: 1: {CANNOT}", "NOPERM"),
        ("OOM command not allowed when used memory > 'maxmemory'. script: on @user_script:1.", "OOM"),
        (f"ERR {KEYDB}@user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("ERR unknown command 'FOO', with args beginning with: ", "ERR"),
    ],
)
def test_a_refusal_has_one_code_on_all_servers(text: str, code: str) -> None:
    assert CommandError(text).code == code
