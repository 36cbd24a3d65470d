# Made by python -m pramfs.cli.manual; do not edit.
_pramfs() {
    local line=${COMP_LINE:0:COMP_POINT} words=""
    local typed=${line##*[[:space:]]}
    local -a given
    read -ra given <<<"${line%"$typed"}"
    COMPREPLY=()
    if ((${#given[@]} == 1)); then
        words="mount umount save status snapshot snapshots rollback diff send receive clone dedup info check map takeover dump ls cat extract nodes put get free kexec claim restore -h --help --version"
    elif [[ ${given[1]} == mount &&
        ( ${given[-1]} =~ ^(-o|--options)$ || $typed =~ ^(-o.|--options=) ) ]]; then
        words="size= nr_inodes= mode= uid= gid= banned= name= snapshot= noload pram= arena=auto arena=image arena=memory verify=full verify=lazy recover checkpoint= keep=N keep=TIME writeback= dedup ro rw allow_other noatime nodiratime direct_io check_open fsync=nothing fsync=publish"
        local list=${typed#-o} cut=${typed%"${typed##*[=:]}"}
        list=${list#--options=}
        local last=${list##*,}
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen -P "${typed%"$last"}" -W "$words" -- "$last")
        COMPREPLY=("${COMPREPLY[@]#"$cut"}")
        return
    elif [[ $typed == -* && $typed != *=* ]]; then
        case ${given[1]} in
            mount) words="-h --help -f --foreground -o --options" ;;
            umount) words="-h --help" ;;
            save) words="-h --help --to" ;;
            status) words="-h --help --json" ;;
            snapshot) words="-h --help" ;;
            snapshots) words="-h --help --json" ;;
            rollback) words="-h --help --name" ;;
            diff) words="-h --help --json" ;;
            send) words="-h --help --since --to --incremental --keep --compress --name" ;;
            receive) words="-h --help --from --as --size" ;;
            clone) words="-h --help" ;;
            dedup) words="-h --help --json" ;;
            info) words="-h --help --json" ;;
            check) words="-h --help --json" ;;
            map) words="-h --help --json --svg --file --name --node" ;;
            takeover) words="-h --help" ;;
            dump) words="-h --help --node --links --pfn" ;;
            ls) words="-h --help -l --long --json --name --recover" ;;
            cat) words="-h --help --name --recover" ;;
            extract) words="-h --help -C --directory --name --recover" ;;
            nodes) words="-h --help" ;;
            put) words="-h --help" ;;
            get) words="-h --help" ;;
            free) words="-h --help" ;;
            kexec) words="-h --help --load-only --dry-run --kernel --initrd --append --undo --checkpoint" ;;
            claim) words="-h --help --list --to" ;;
            restore) words="-h --help --hold --json" ;;
        esac
    elif [[ ${given[1]} =~ ^(umount|save|status|dedup|restore)$ ]]; then
        compopt -o dirnames
    else
        compopt -o default
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$typed")
}
complete -F _pramfs pramfs
