# Made by python -m pramfs.cli.manual; do not edit.
function __pramfs_mount_options
    set -l typed (commandline --current-token | string replace --regex -- '^--options=' '')
    set -l before (string replace --regex -- '[^,]*$' '' "$typed")
    printf '%s\t%s\n' \
        "$before"size= 'size of the arena, with a suffix K M G T or as N% of RAM (default: half of RAM); an image that exists keeps its size, and grows when more is asked for' \
        "$before"nr_inodes= 'most inodes the tree may have, with a suffix (default: one for each frame)' \
        "$before"mode= 'mode of the root directory of a new tree (default: 755)' \
        "$before"uid= 'its owner (default: yours)' \
        "$before"gid= 'its group (default: yours)' \
        "$before"banned= 'a region of the image that may hold nothing persistent; several as MIN-MAX,MIN-MAX or MIN-MAX:MIN-MAX or by repeating the option' \
        "$before"name= 'name of the tree in the image (default: pramfs)' \
        "$before"snapshot= 'mount this snapshot read-only (TREE@SNAPSHOT: one of another tree than the default); with name= a writable tree of that name, which must be a new one, grows from it' \
        "$before"noload 'start with an empty tree; the next save replaces the one in the image' \
        "$before"pram= 'hexadecimal pfn of the super block (default: it is searched for)' \
        "$before"arena=auto 'where new pages are held until they are saved: in the image at once, in memory, or by where the image lives (default: auto)' \
        "$before"arena=image 'where new pages are held until they are saved: in the image at once, in memory, or by where the image lives (default: auto)' \
        "$before"arena=memory 'where new pages are held until they are saved: in the image at once, in memory, or by where the image lives (default: auto)' \
        "$before"verify=full 'check every page before the mount is ready, or each when it is read first (default: full)' \
        "$before"verify=lazy 'check every page before the mount is ready, or each when it is read first (default: full)' \
        "$before"recover 'mount what is whole of a damaged tree, and list the rest' \
        "$before"checkpoint= 'publish a save by itself whenever something changed that long ago (default: 0, never)' \
        "$before"keep=N 'keep the last N saves, or those of a time such as 30m, 24h or 7d, as snapshots: of umount, '\''pramfs save'\'' and checkpoint=; when the arena is full the oldest go (default: 0, none)' \
        "$before"keep=TIME 'keep the last N saves, or those of a time such as 30m, 24h or 7d, as snapshots: of umount, '\''pramfs save'\'' and checkpoint=; when the arena is full the oldest go (default: 0, none)' \
        "$before"writeback= 'on a disk, write pages out before a save when there are more than it can write in that time (default: 30; 0: leave it alone until a save, unless memory runs short)' \
        "$before"dedup 'have pages with the same bytes share memory, whenever the mount is idle' \
        "$before"ro 'mount read-only; nothing is saved' \
        "$before"rw 'mount writable (the default)' \
        "$before"allow_other 'let other users in, as far as the permissions let them' \
        "$before"noatime 'let reading change no access times' \
        "$before"nodiratime 'let listing change none of directories' \
        "$before"direct_io 'keep file data out of the kernel'\''s page cache' \
        "$before"check_open 'ask at each open of a file, so that what chattr(1) forbids is refused there, and not when the kernel hands over what was written; opening takes longer' \
        "$before"fsync=nothing 'what fsync(2) of a file does: nothing, as on tmpfs, or publish a save, so that what was written to it is durable (default: nothing)' \
        "$before"fsync=publish 'what fsync(2) of a file does: nothing, as on tmpfs, or publish a save, so that what was written to it is durable (default: nothing)'
end
complete -c pramfs -f
complete -c pramfs -n __fish_use_subcommand -s h -l help -d 'show this help message and exit'
complete -c pramfs -n __fish_use_subcommand -l version -d 'say what versions are here'
complete -c pramfs -n __fish_use_subcommand -a mount -d 'mount an image; returns once it is usable'
complete -c pramfs -n __fish_use_subcommand -a umount -d 'unmount and wait until the save is durable'
complete -c pramfs -n __fish_use_subcommand -a save -d 'publish a checkpoint of a mount now'
complete -c pramfs -n __fish_use_subcommand -a status -d 'say how a running mount does'
complete -c pramfs -n __fish_use_subcommand -a snapshot -d 'keep what a mount holds now'
complete -c pramfs -n __fish_use_subcommand -a snapshots -d 'list the snapshots of an image or a mount'
complete -c pramfs -n __fish_use_subcommand -a rollback -d 'go back to a snapshot'
complete -c pramfs -n __fish_use_subcommand -a diff -d 'say what has changed since a snapshot'
complete -c pramfs -n __fish_use_subcommand -a send -d 'write a tree to standard output as a stream'
complete -c pramfs -n __fish_use_subcommand -a receive -d 'take a tree that send has written from standard input'
complete -c pramfs -n __fish_use_subcommand -a clone -d 'copy a file or a tree, sharing its pages'
complete -c pramfs -n __fish_use_subcommand -a dedup -d 'have equal pages of a mount share memory'
complete -c pramfs -n __fish_use_subcommand -a info -d 'say what is in an image or a mount'
complete -c pramfs -n __fish_use_subcommand -a check -d 'verify everything in an image, change nothing'
complete -c pramfs -n __fish_use_subcommand -a map -d 'draw where everything lies in an image or a mount'
complete -c pramfs -n __fish_use_subcommand -a takeover -d 'let this machine have an image that a dead one had'
complete -c pramfs -n __fish_use_subcommand -a dump -d 'print the structures of an image field by field'
complete -c pramfs -n __fish_use_subcommand -a ls -d 'list files of an image without mounting it'
complete -c pramfs -n __fish_use_subcommand -a cat -d 'write files of an image to standard output'
complete -c pramfs -n __fish_use_subcommand -a extract -d 'copy files out of an image, attributes too'
complete -c pramfs -n __fish_use_subcommand -a nodes -d 'list the nodes of an image'
complete -c pramfs -n __fish_use_subcommand -a put -d 'store standard input as a node'
complete -c pramfs -n __fish_use_subcommand -a get -d 'write a node to standard output'
complete -c pramfs -n __fish_use_subcommand -a free -d 'free a node, tree or snapshot, or all of them'
complete -c pramfs -n __fish_use_subcommand -a kexec -d 'start another kernel, and keep images over it'
complete -c pramfs -n __fish_use_subcommand -a claim -d 'put back the images that the last kernel has handed over'
complete -c pramfs -n __fish_use_subcommand -a restore -d 'restore the processes that kexec --checkpoint has dumped'
complete -c pramfs -n '__fish_seen_subcommand_from mount' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from mount' -s f -l foreground -d 'stay in the foreground'
complete -c pramfs -n '__fish_seen_subcommand_from mount' -s o -l options -x -a '(__pramfs_mount_options)' -d 'see below; may be given several times'
complete -c pramfs -n '__fish_seen_subcommand_from mount' -F
complete -c pramfs -n '__fish_seen_subcommand_from umount' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from umount' -a '(__fish_complete_directories)'
complete -c pramfs -n '__fish_seen_subcommand_from save' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from save' -l to -r -F -d 'save everything to a new image at PATH, and let the mount go on there'
complete -c pramfs -n '__fish_seen_subcommand_from save' -a '(__fish_complete_directories)'
complete -c pramfs -n '__fish_seen_subcommand_from status' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from status' -l json -d 'for programs'
complete -c pramfs -n '__fish_seen_subcommand_from status' -a '(__fish_complete_directories)'
complete -c pramfs -n '__fish_seen_subcommand_from snapshot' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from snapshot' -a '(__fish_complete_directories)'
complete -c pramfs -n '__fish_seen_subcommand_from snapshots' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from snapshots' -l json -d 'for programs'
complete -c pramfs -n '__fish_seen_subcommand_from rollback' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from rollback' -l name -x -d 'which tree (default: pramfs)'
complete -c pramfs -n '__fish_seen_subcommand_from rollback' -F
complete -c pramfs -n '__fish_seen_subcommand_from diff' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from diff' -l json -d 'for programs'
complete -c pramfs -n '__fish_seen_subcommand_from diff' -F
complete -c pramfs -n '__fish_seen_subcommand_from send' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from send' -l since -x -d 'only what is not in that one'
complete -c pramfs -n '__fish_seen_subcommand_from send' -l to -x -d 'a place that keeps it, not standard output'
complete -c pramfs -n '__fish_seen_subcommand_from send' -l incremental -d 'since the newest snapshot that the place has, too; all if there is none'
complete -c pramfs -n '__fish_seen_subcommand_from send' -l keep -x -d 'drop older ones of the tree from the place'
complete -c pramfs -n '__fish_seen_subcommand_from send' -l compress -d 'for slow networks'
complete -c pramfs -n '__fish_seen_subcommand_from send' -l name -x -d 'which tree (default: pramfs)'
complete -c pramfs -n '__fish_seen_subcommand_from receive' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from receive' -l from -x -d 'a place that keeps streams, not standard input'
complete -c pramfs -n '__fish_seen_subcommand_from receive' -l as -x -d 'the name that it gets'
complete -c pramfs -n '__fish_seen_subcommand_from receive' -l size -x -d 'of the image, as with mount -o size='
complete -c pramfs -n '__fish_seen_subcommand_from receive' -F
complete -c pramfs -n '__fish_seen_subcommand_from clone' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from clone' -F
complete -c pramfs -n '__fish_seen_subcommand_from dedup' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from dedup' -l json -d 'for programs'
complete -c pramfs -n '__fish_seen_subcommand_from dedup' -a '(__fish_complete_directories)'
complete -c pramfs -n '__fish_seen_subcommand_from info' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from info' -l json -d 'for programs'
complete -c pramfs -n '__fish_seen_subcommand_from info' -F
complete -c pramfs -n '__fish_seen_subcommand_from check' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from check' -l json -d 'for programs'
complete -c pramfs -n '__fish_seen_subcommand_from check' -F
complete -c pramfs -n '__fish_seen_subcommand_from map' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from map' -l json -d 'for programs'
complete -c pramfs -n '__fish_seen_subcommand_from map' -l svg -r -F -d 'write the picture there instead'
complete -c pramfs -n '__fish_seen_subcommand_from map' -l file -r -F -d 'show the frames of this file of the tree'
complete -c pramfs -n '__fish_seen_subcommand_from map' -l name -x -d 'which tree it is in (default: pramfs)'
complete -c pramfs -n '__fish_seen_subcommand_from map' -l node -x -d 'show the frames of this node'
complete -c pramfs -n '__fish_seen_subcommand_from map' -F
complete -c pramfs -n '__fish_seen_subcommand_from takeover' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from takeover' -F
complete -c pramfs -n '__fish_seen_subcommand_from dump' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from dump' -l node -x -d 'this node only'
complete -c pramfs -n '__fish_seen_subcommand_from dump' -l links -d 'with the links and their entries'
complete -c pramfs -n '__fish_seen_subcommand_from dump' -l pfn -x -d 'only this frame, hexadecimal'
complete -c pramfs -n '__fish_seen_subcommand_from dump' -F
complete -c pramfs -n '__fish_seen_subcommand_from ls' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from ls' -s l -l long -d 'with flags of chattr(1) and birth times'
complete -c pramfs -n '__fish_seen_subcommand_from ls' -l json -d 'for programs'
complete -c pramfs -n '__fish_seen_subcommand_from ls' -l name -x -d 'which tree (default: pramfs)'
complete -c pramfs -n '__fish_seen_subcommand_from ls' -l recover -d 'take what is whole'
complete -c pramfs -n '__fish_seen_subcommand_from ls' -F
complete -c pramfs -n '__fish_seen_subcommand_from cat' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from cat' -l name -x -d 'which tree (default: pramfs)'
complete -c pramfs -n '__fish_seen_subcommand_from cat' -l recover -d 'take what is whole'
complete -c pramfs -n '__fish_seen_subcommand_from cat' -F
complete -c pramfs -n '__fish_seen_subcommand_from extract' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from extract' -s C -l directory -x -a '(__fish_complete_directories)' -d 'where to: a new or empty directory (default: this one)'
complete -c pramfs -n '__fish_seen_subcommand_from extract' -l name -x -d 'which tree (default: pramfs)'
complete -c pramfs -n '__fish_seen_subcommand_from extract' -l recover -d 'take what is whole'
complete -c pramfs -n '__fish_seen_subcommand_from extract' -F
complete -c pramfs -n '__fish_seen_subcommand_from nodes' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from nodes' -F
complete -c pramfs -n '__fish_seen_subcommand_from put' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from put' -F
complete -c pramfs -n '__fish_seen_subcommand_from get' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from get' -F
complete -c pramfs -n '__fish_seen_subcommand_from free' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from free' -F
complete -c pramfs -n '__fish_seen_subcommand_from kexec' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from kexec' -l load-only -d 'leave the start to: kexec -e'
complete -c pramfs -n '__fish_seen_subcommand_from kexec' -l dry-run -d 'check, say what would be done, do nothing'
complete -c pramfs -n '__fish_seen_subcommand_from kexec' -l kernel -r -F -d 'default: the one that runs'
complete -c pramfs -n '__fish_seen_subcommand_from kexec' -l initrd -r -F -d 'default: the kernel'\''s'
complete -c pramfs -n '__fish_seen_subcommand_from kexec' -l append -x -d 'for its command line, after the present one'
complete -c pramfs -n '__fish_seen_subcommand_from kexec' -l undo -d 'take back what --load-only has handed over'
complete -c pramfs -n '__fish_seen_subcommand_from kexec' -l checkpoint -r -F -d 'dump processes first; FILE says which, default: /etc/pramfs/checkpoint.toml'
complete -c pramfs -n '__fish_seen_subcommand_from kexec' -F
complete -c pramfs -n '__fish_seen_subcommand_from claim' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from claim' -l list -d 'say which are not in their places, why'
complete -c pramfs -n '__fish_seen_subcommand_from claim' -l to -r -F -d 'put the image there instead'
complete -c pramfs -n '__fish_seen_subcommand_from claim' -F
complete -c pramfs -n '__fish_seen_subcommand_from restore' -s h -l help -d 'show this help message and exit'
complete -c pramfs -n '__fish_seen_subcommand_from restore' -l hold -d 'restore nothing yet, drop packets for these processes'
complete -c pramfs -n '__fish_seen_subcommand_from restore' -l json -d 'for programs'
complete -c pramfs -n '__fish_seen_subcommand_from restore' -a '(__fish_complete_directories)'
