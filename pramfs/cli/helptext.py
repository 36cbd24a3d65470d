"""The texts of help and manual pages for each command, and messages for wrong arguments.

Paragraphs are wrapped; lines that begin with blanks are examples and stay as they are.
"""

import difflib
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator

from pramfs.options import FOR_OTHERS, KERNEL_FLAGS, OPTIONS, WITHOUT_EFFECT

PROGRAM = """\
A filesystem in memory, like tmpfs, whose files survive: unmount it, end its daemon, start another kernel,
mount it again, and they are there. An image is a file or a block device; page N of the image is frame N of
the memory. A mount copies nothing; an unmount saves what has changed and returns when it is durable.

  pramfs mount -o size=1G /dev/shm/keep.pram /mnt/keep
  cp -a ~/project /mnt/keep/
  pramfs umount /mnt/keep
"""

TEXTS = {
    "mount": """\
Mount IMAGE at MOUNTPOINT. A missing or empty image is made; anything else that is no pram image is left
alone. All pages are checked first. Returns 0 when the mount is usable; a daemon stays behind, which logs to
syslog and to a file that 'pramfs status' names.

  pramfs mount -o banned=0-16M /dev/pmem0 /mnt/keep
""",
    "umount": """\
Unmount, wait until everything is saved, and say how the save went: exit code 0 means durable. Waits for the
save however long it takes; interrupting it does not stop the save. Also clears a mount whose daemon is dead.
""",
    "save": """\
Publish a checkpoint: returns 0 when everything that was written before is durable. The mount goes on.

With --to everything is saved to a new image, and the mount goes on there: for an image that was removed or
replaced, whose file system was unmounted, or whose disk fails. PATH is a new file, one that is empty or holds
only zeros, or a block device. When that fails, the mount goes on with the image that it had.

  pramfs save --to /srv/keep.pram /mnt/keep
""",
    "status": """\
Ask the daemon of a mount how it does: image, process, log, age and generation of the last save, pages that
are not saved yet, errors. Without MOUNTPOINT it lists every running mount that is visible here, a line each.
""",
    "dedup": """\
Have pages of files that hold the same bytes share memory, and make holes of pages of zeros, now: returns
when all files have been looked at. No content changes, and other programs go on meanwhile. Interrupting it
ends the work, and what has been done stays. The mount option 'dedup' does this all the time.

  pramfs dedup /mnt/keep
""",
    "clone": """\
Copy a file or a whole tree within a mount, as 'cp -a' does, but let the copy share all whole pages: it takes
no room for data until one of the two is changed, and the other stays as it is then. Holes stay holes. Keeps
modes, owners, times, extended attributes and ACLs, flags of chattr(1), links within the tree, and special
files; what only root may set is told when it could not be set.

If TARGET is a directory the clone is made in it. A file that is there is replaced; a directory is never. Both
must be in the same mount. The clone is made beside its place as .pramfs-clone-NUMBER, and gets its name when
it is complete; if anything fails it is removed. What programs write meanwhile may be in it or not.

  pramfs clone /mnt/dump/monday /mnt/dump/tuesday
  pramfs clone /mnt/dump/.snapshots/monday/project /mnt/dump/project
""",
    "info": """\
Say what the last save in an image holds: size, frames, generation, when it was saved and by whom, trees and
nodes, and how the last run ended. Safe at any time, also while the image is mounted.
""",
    "check": """\
Verify every page that the last save holds, with its checksum, and that all of it hangs together. Changes
nothing. Exit codes are fsck(8)'s: 0 clean, 4 damage found, 8 not a pram image or unreadable, 16 wrong
usage.
""",
    "map": """\
Draw what every frame is for, in a picture as large as the terminal: a sign stands for several frames and
shows the first in the legend that is among them. All data pages are verified, and damaged ones shown. Of a
mount it also shows what is new, what only the last save still needs, and what is banned.

  pramfs map /mnt/keep
  pramfs map --file project/README.md --svg report.svg /dev/shm/keep.pram
""",
    "takeover": """\
Let this machine have an image on a network block device that another machine has marked as mounted. A mount
for writing leaves such a mark on every block device that is not memory, and takes it away when it is
unmounted and saved; until then all other machines are refused. Only you can tell whether the other machine is
dead. MAKE SURE THAT IT IS OFF, or cut off from the device: what it has not saved is lost, and if it still
runs and writes, the image may be damaged. It will notice and save nothing more. Nothing else is changed, and
nothing at all if no other machine has the image.

  pramfs takeover /dev/nbd0
  pramfs mount /dev/nbd0 /mnt/keep
""",
    "snapshot": """\
Publish a checkpoint of the mount, as 'pramfs save' does, and keep it as a snapshot of that name: what the
tree holds now, whatever becomes of it later. It takes room for its metadata, and then for what is changed or
deleted in the tree. Several names are several snapshots. A name has 1 to 128 bytes, none of them @ or /, and
begins with neither '.', '-' nor 'auto-'. Returns when it is durable.

  pramfs snapshot /mnt/keep before-upgrade
""",
    "snapshots": """\
List the snapshots in an image or a mount, the oldest first: when each was taken, how many frames of 4 KiB
only it holds, which come free with it, and how many it shares with the tree or other snapshots. A snapshot is
a tree called NAME@SNAPSHOT: ls, cat, extract and map take it as --name NAME@SNAPSHOT. Whatever takes a
snapshot takes @SNAPSHOT and SNAPSHOT, too, for one of the default tree, or of the tree that is mounted there.

  pramfs ls --name @before-upgrade /srv/keep.pram

Of a place for 'pramfs send --to', a URL or a directory, it lists the streams: name, when it was sent, id,
size, and what it builds on. A file with one stream is no place.
""",
    "rollback": """\
Make a tree what it was in a snapshot. The image must not be mounted. The snapshot stays as it is, so that you
can go back to it again. What the tree was until now becomes a snapshot itself, called replaced- and the time,
so that nothing is lost: 'pramfs free' frees it. No data is copied: it takes the room and the time of another
snapshot. A snapshot of another tree is given as NAME@SNAPSHOT.

  pramfs umount /mnt/keep
  pramfs rollback /srv/keep.pram before-upgrade
  pramfs mount /srv/keep.pram /mnt/keep
""",
    "send": """\
Write a tree to standard output as a stream, which 'pramfs receive' takes elsewhere: all of it, or with
--since only what is not in that snapshot. Names, attributes, times, holes, links and shared pages are kept.
Every page is verified. Of a mount without @SNAPSHOT what it holds now is sent: it is saved, and kept as a
snapshot called sending- and the time until all is sent. Programs wait for that no longer than for a save.

  pramfs send /mnt/dump@monday | ssh other pramfs receive /dev/shm/copy.pram
  pramfs send --since monday /mnt/dump | ssh other pramfs receive --as @now /dev/shm/copy.pram

With --to it goes to a place that keeps streams: a directory, s3://BUCKET/PREFIX or
sftp://[USER@]HOST[:PORT]/PATH. The place must have the snapshot of --since; --incremental takes the newest
that it has. --keep drops all streams of the tree but the last N, or those of a time such as 24h or 7d, and
never what another one builds on. Credentials are found where aws and ssh look for them. The exit code is 0
when all of it is there.

  pramfs send --to s3://backups/dump --incremental --keep 7d /mnt/dump@tuesday
""",
    "receive": """\
Take a stream of 'pramfs send' from standard input, and add the tree in it to an image or a mount. A
missing or empty image is made, as large as --size says or as a mount would make it. The tree gets the name
that it was sent under, or that of --as: TREE, or TREE@SNAPSHOT or @SNAPSHOT. No tree may have that name yet.

Into a mount it goes beside the tree that is mounted, usually as a snapshot; programs there see nothing of it.

A stream of --since needs the snapshot that it builds on, in whatever name; without it nothing more is read.
The tree is there when the exit code is 0, and durable; with any other exit code nothing has changed, also
when the stream was cut off or damaged on its way. Only with 64, after a signal at the end, it is unknown.

  pramfs send /mnt/dump > dump.stream
  pramfs receive --as @back /mnt/dump < dump.stream

With --from it comes from a place, also https://HOST/PATH: the newest stream there, or with @ behind it that
of a snapshot, tree or id. What it builds on is received before it, if it is not here.

  pramfs receive --from s3://backups/dump@tuesday /dev/shm/copy.pram
""",
    "diff": """\
Say what differs between two snapshots, or between a snapshot and the tree as it is now: a line for each name,
and the sum in the last line. A SNAPSHOT of another tree is given as NAME@SNAPSHOT. Of a mount, what is in it
now is saved first, as 'pramfs save' does; who may not ask for that is told so, and the last save is compared.

A is for added, D for deleted, R for renamed (what is in a renamed directory is not listed), M for other
contents, with the number of pages of 4 KiB that differ, and m for nothing but other attributes: mode, owner,
extended attributes (xattrs) and flags of chattr(1). Times are not compared. Exit codes are diff(1)'s: 0 no
difference, 1 there are some, 2 trouble.

  pramfs diff /mnt/keep before-upgrade
""",
    "dump": """\
Print super block, nodes and links field by field, as pramfs(5) names them. Checksums that are wrong are
marked. Also shows pages that a mount would refuse.

  pramfs dump --node pramfs-data --links /dev/shm/keep.pram
  pramfs dump --pfn 1f4 /dev/shm/keep.pram
""",
    "ls": """\
List what is in directories of the tree, or files, as 'ls -ln' does, without mounting: no root and no FUSE
needed. A symbolic link is followed on the way, and at the end of a path with a slash behind it, but never
out of the tree. With --recover the data of what is listed is verified, damaged files are named, and the exit
code is then 4.

With -l the flags of chattr(1) stand behind the mode, in the letters of lsattr(1) (iadA), and the time of
birth behind that of the last change; - is an unknown one.
""",
    "cat": """\
Write files of the tree to standard output, without mounting. Symbolic links are followed, but never out of
the tree. The files are verified first, and nothing is written if one is damaged; with --recover those are
left out, and the exit code is then 4.
""",
    "extract": """\
Copy the tree, or what is at the paths, into a new or empty directory, without mounting. A symbolic link at
the end of a path stays one; one on the way is followed, but never out of the tree. Keeps hard links, holes,
modes, times, extended attributes, the flags d and A of chattr(1) and, for root, i and a, owners and devices;
says what it could not set. Birth times cannot be set. If a file is damaged nothing is made; with --recover
everything that is whole is made, the rest is named, and the exit code is then 4.

  pramfs extract --recover -C rescued /dev/shm/keep.pram
""",
    "nodes": """\
List the nodes: named things in persistent memory. A tree NAME is its nodes NAME-meta, NAME-data, NAME-more.
""",
    "put": """\
Store standard input as a new node, a byte stream; makes the image if there is none.

  tar -c project | pramfs put /dev/shm/keep.pram project
""",
    "get": """\
Write a node to standard output and leave it in the image. Every page is verified.

  pramfs get /dev/shm/keep.pram project | tar -x
""",
    "free": """\
Free a node, a tree, or a snapshot as NAME@SNAPSHOT, and say what has gone. Without a name EVERYTHING in the
image is freed: all trees, all snapshots, all nodes. In a mount, snapshots can be freed while it is used; an
image must not be mounted.

  pramfs free /mnt/keep @before-upgrade
""",
    "kexec": """\
Load a kernel and start it with kexec(8), so that images outlive it. Unmount first. The memory under a device
is left alone: memmap= is passed on, and nothing is loaded into the range. A file on a tmpfs is handed over by
Linux's live update, and put back in the new kernel by pramfs claim.

  pramfs kexec --load-only /dev/pmem0
  systemctl kexec

With --checkpoint, processes are dumped into a mount by criu(8), the mount is unmounted, and its image kept.
""",
    "restore": """\
Restore the processes that were dumped into a mount before a kexec (its option --checkpoint), each once. What
cannot be restored is kept with its log, and the exit code is 32. Units of systemd do it at boot.

  pramfs restore /mnt
""",
    "claim": """\
Put the images that the last kernel has handed over back under their names, with owner and mode, and verify
them on the way. One that cannot be put back (its path is taken, there is no room) is kept; claim it again, or
elsewhere.

  pramfs claim --list
  pramfs claim --to /srv/keep.pram /dev/shm/keep.pram
""",
}

# Options of -o that do not belong to pramfs, and their effect.
_FOREIGN_OPTIONS = (
    (
        KERNEL_FLAGS,
        "for the kernel, as with any file system; nosuid and nodev are on from the start",
    ),
    (WITHOUT_EFFECT, "taken, and change nothing"),
    (FOR_OTHERS, "taken; what they mean is the business of mount(8), fstab(5) and systemd"),
)

_WIDTH = 90


def wrapped(text: str) -> str:
    """Return the text wrapped to lines of readable length."""
    paragraphs = (part.strip("\n") for part in text.split("\n\n"))
    return "\n\n".join(
        part if part.startswith(" ") else textwrap.fill(" ".join(part.split()), _WIDTH)
        for part in paragraphs
    )


def mount_options() -> str:
    """Return the description of all options of `-o`."""
    lines = ["options of -o:"]
    for words, meaning in option_items():
        lines.append(textwrap.indent(textwrap.fill(words, _WIDTH - 2), " " * 2))
        lines.append(textwrap.indent(textwrap.fill(meaning, _WIDTH - 8), " " * 8))
    return "\n".join(lines)


def option_items() -> Iterator[tuple[str, str]]:
    """Yield (words, meaning) of all options of `-o`: those of pramfs one by one, then the others."""
    for option in OPTIONS:
        yield f"{option.name}={option.value}" if option.value else option.name, option.help
    for words, meaning in _FOREIGN_OPTIONS:
        yield ", ".join(words), meaning


def corrected(message: str, commands: Iterable[str], options: Collection[str]) -> str:
    """Return a message of argparse with a suggestion for the wrong word."""
    choice = re.search(r"invalid choice: '([^']*)'", message)
    if choice and not message.startswith("argument --"):
        return f"unknown command '{choice[1]}'{_hint(choice[1], commands)}"
    unknown = re.fullmatch(r"unrecognized arguments: (.*)", message)
    if unknown:
        word = unknown[1].split()[0].partition("=")[0]
        if word.startswith("-") and word not in options:
            return f"unknown option '{word}'{_hint(word, options)}"
        return f"too many arguments: {unknown[1]}"
    return message


def _hint(word: str, known: Iterable[str]) -> str:
    words = sorted(set(known))
    beginnings = [other for other in words if other.startswith(word)]
    close = beginnings if len(beginnings) == 1 else difflib.get_close_matches(word, words, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
