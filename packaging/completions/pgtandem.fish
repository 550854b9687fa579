# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_pgtandem_global_optspecs
    string join \n d/daemon q/quiet R/reboot v/verbose u/user= h/help V/version
end

function __fish_pgtandem_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_pgtandem_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_pgtandem_using_subcommand
    set -l cmd (__fish_pgtandem_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c pgtandem -n "__fish_pgtandem_needs_command" -s u -l user -r -f -a "(__fish_complete_users)"
complete -c pgtandem -n "__fish_pgtandem_needs_command" -s d -l daemon
complete -c pgtandem -n "__fish_pgtandem_needs_command" -s q -l quiet
complete -c pgtandem -n "__fish_pgtandem_needs_command" -s R -l reboot
complete -c pgtandem -n "__fish_pgtandem_needs_command" -s v -l verbose
complete -c pgtandem -n "__fish_pgtandem_needs_command" -s h -l help -d 'Print help'
complete -c pgtandem -n "__fish_pgtandem_needs_command" -s V -l version -d 'Print version'
complete -c pgtandem -n "__fish_pgtandem_needs_command" -a "check" -d 'say all that is wrong with a configuration'
complete -c pgtandem -n "__fish_pgtandem_needs_command" -a "convert" -d 'print a configuration in the native TOML form'
complete -c pgtandem -n "__fish_pgtandem_needs_command" -a "address-helper" -d 'hold the floating addresses of a pooler'
complete -c pgtandem -n "__fish_pgtandem_needs_command" -a "doctor" -d 'look at all that serving a configuration needs'
complete -c pgtandem -n "__fish_pgtandem_using_subcommand check" -s q -l quiet
complete -c pgtandem -n "__fish_pgtandem_using_subcommand check" -l without-files
complete -c pgtandem -n "__fish_pgtandem_using_subcommand check" -l pgbouncer
complete -c pgtandem -n "__fish_pgtandem_using_subcommand check" -s h -l help -d 'Print help'
complete -c pgtandem -n "__fish_pgtandem_using_subcommand convert" -s h -l help -d 'Print help'
complete -c pgtandem -n "__fish_pgtandem_using_subcommand address-helper" -s u -l user -r -f -a "(__fish_complete_users)"
complete -c pgtandem -n "__fish_pgtandem_using_subcommand address-helper" -s h -l help -d 'Print help'
complete -c pgtandem -n "__fish_pgtandem_using_subcommand doctor" -l timeout -r
complete -c pgtandem -n "__fish_pgtandem_using_subcommand doctor" -s u -l user -r -f -a "(__fish_complete_users)"
complete -c pgtandem -n "__fish_pgtandem_using_subcommand doctor" -s q -l quiet
complete -c pgtandem -n "__fish_pgtandem_using_subcommand doctor" -l json
complete -c pgtandem -n "__fish_pgtandem_using_subcommand doctor" -s h -l help -d 'Print help'
