"""Doubles of criu, systemctl, systemd-run and nft for PATH. Each notes its calls in one file."""

import os
from pathlib import Path

# $FAIL is a list of words STEP:NAME, of dumps and restores that fail: trial:web.service
_CRIU = """\
#!/bin/bash
echo "criu $*" >>"$CALLS"
step=$1
while [ $# -gt 0 ]; do
    case $1 in
        -t) pid=$2; shift ;;
        -D) images=$2; shift ;;
        -o) log=$2; shift ;;
        --pidfile) pidfile=$2; shift ;;
        --leave-running) step=trial ;;
    esac
    shift
done
echo "(00.01) Running" >"$log"
for failing in $FAIL; do
    if [ "$failing" = "$step:${images##*/}" ]; then
        echo "(00.02) Error (criu/sk-inet.c:191): inet: Connected TCP socket" >>"$log"
        echo "(00.03) Error (criu/cr-dump.c:1): Dumping FAILED." >>"$log"
        exit 1
    fi
done
case $step in
    dump) echo pages >"$images/pages.img"; kill -KILL "$pid" ;;
    trial) echo pages >"$images/pages.img"; kill -0 "$pid" ;;
    restore) [ -e "$images/pages.img" ] && echo 1 >"$pidfile" ;;
esac
"""
_SYSTEMCTL = """\
#!/bin/bash
echo "systemctl $*" >>"$CALLS"
case "$1 $2 $3" in
    "show --property=ActiveState --value") echo "${ACTIVE:-inactive}"; exit ;;
esac
case $1 in
    show) echo ActiveState=active; echo "ControlGroup=/system.slice/${!#}" ;;
    start)
        [ "$2" = --no-block ] && exit
        command=$(sed -n 's/^ExecStart=+//p' "$UNITS/$2.d/50-pramfs-checkpoint.conf")
        eval "$command" || { echo "Job for $2 failed" >&2; exit 1; } ;;
esac
"""
_SYSTEMD_RUN = """\
#!/bin/bash
echo "systemd-run" >>"$CALLS"
while [ "${1#--}" != "$1" ]; do shift; done
exec "$@"
"""
_NFT = """\
#!/bin/bash
echo "nft: $(tr -s '\\n ' '  ')" >>"$CALLS"
[ -z "$NFT_FAILS" ] || { echo "no nf_tables" >&2; exit 1; }
"""


def install(place: Path) -> Path:
    """Put the doubles into a directory that is made, for PATH; returns it."""
    place.mkdir()
    for name, text in (
        ("criu", _CRIU),
        ("systemctl", _SYSTEMCTL),
        ("systemd-run", _SYSTEMD_RUN),
        ("nft", _NFT),
    ):
        path = place / name
        path.write_text(text)
        path.chmod(0o755)
    return place


def path_with(place: Path) -> str:
    """Return a PATH that has them first."""
    return f"{place}:{os.environ['PATH']}"
