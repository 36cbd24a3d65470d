# Made by python -m pramfs.manual; do not edit.
_pramfs() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=""
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        words="mount umount save status info check map dump ls cat extract nodes put get free kexec --help --version"
    elif [[ ${COMP_WORDS[1]} == mount && ( $before == -o || $before == --options ) ]]; then
        words="size= nr_inodes= mode= uid= gid= banned= name= noload pram= arena= verify= recover checkpoint= ro rw allow_other direct_io"
    elif [[ $word == -* ]]; then
        case ${COMP_WORDS[1]} in
            mount) words="-f --foreground -o --options --help" ;;
            umount) words="--help" ;;
            save) words="--help" ;;
            status) words="--json --help" ;;
            info) words="--json --help" ;;
            check) words="--json --help" ;;
            map) words="--json --svg --file --name --node --help" ;;
            dump) words="--node --links --pfn --help" ;;
            ls) words="--name --recover --help" ;;
            cat) words="--name --recover --help" ;;
            extract) words="-C --directory --name --recover --help" ;;
            nodes) words="--help" ;;
            put) words="--help" ;;
            get) words="--help" ;;
            free) words="--help" ;;
            kexec) words="--load-only --dry-run --kernel --initrd --append --help" ;;
        esac
    else
        compopt -o default
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
    [[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace
}
complete -F _pramfs pramfs
