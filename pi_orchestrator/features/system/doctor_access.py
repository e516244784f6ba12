"""The check by `doctor` whether the daemon's user can read and write a path.

It needs root, and a process of that user: root itself can read and write everything.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

USER = "pi-orchestrator"
"""The user of the systemd unit."""
CHECK_S = 5.0


def missing_access(path: Path, *, write: bool) -> str | None:
    """A sentence that says whether the daemon's user cannot read or, with `write`, not write an existing path.

    None if it can, or if that cannot be checked: only root can check, and only if the daemon's user exists.
    """
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(USER)
        groups = os.getgrouplist(USER, user.pw_gid)
    except (KeyError, OSError):
        return None  # not installed: the daemon has no user of its own
    for option, verb in (("-r", "read"), *((("-w", "write"),) if write else ())):
        try:
            # A process of that user, because folders above the path and access control lists count too.
            done = subprocess.run(
                ["/usr/bin/test", option, path],
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=groups,
                cwd="/",
                timeout=CHECK_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return None  # root, but without the capability to run a process of another user
        if done.returncode == 1:
            return f"the daemon's user {USER} cannot {verb} {path}"
    return None
