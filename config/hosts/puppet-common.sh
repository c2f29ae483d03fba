# Shared by disable-puppet, enable-puppet and run-puppet-agent, and sourced by spicerack itself.
# Install as /usr/local/share/bash/puppet-common.sh, mode 0644.
#
# Sets PUPPET_SUMMARY, PUPPET_DISABLEDLOCK and PUPPET_RUNLOCK and defines functions; it prints nothing and changes
# nothing. The files are Puppet's own (https://www.puppet.com/docs/puppet/7/lockfiles): `puppet agent --disable` and these
# commands see each other. They are read and written here without starting Ruby, which takes seconds.
#
# /etc/default/fleet-puppet may set, in shell syntax:
#   VARDIR          Puppet's vardir, such as /var/lib/puppet; unset: Puppet is asked once a boot
#   PUBLICDIR       Puppet's publicdir, where the summary of the last run is; default: $VARDIR/public
#   PUPPET_COMMAND  the command that does a run; default: `puppet agent --onetime …`, as below
# shellcheck shell=bash disable=SC2034,SC2317

PUPPET_DEFAULTS=${PUPPET_DEFAULTS:-/etc/default/fleet-puppet}
PUPPET_PATHS_CACHE=${PUPPET_PATHS_CACHE:-/run/fleet-puppet.paths}
PUPPET_COMMAND='puppet agent --onetime --no-daemonize --verbose --show_diff --ignorecache --no-usecacheonfailure'

# shellcheck source=/dev/null
if [[ -r $PUPPET_DEFAULTS ]]; then source "$PUPPET_DEFAULTS"; fi

_puppet_paths() {
    local settings name value
    if [[ -n ${VARDIR:-} ]]; then
        PUPPET_DISABLEDLOCK=$VARDIR/state/agent_disabled.lock
        PUPPET_RUNLOCK=$VARDIR/state/agent_catalog_run.lock
        PUPPET_SUMMARY=${PUBLICDIR:-$VARDIR/public}/last_run_summary.yaml
        return
    fi
    if ! settings=$(cat "$PUPPET_PATHS_CACHE" 2>/dev/null); then
        settings=$(puppet config print --section agent \
            agent_disabled_lockfile agent_catalog_run_lockfile lastrunfile) || return
        # Renamed into place, so that nobody reads half of it; who may not write it just asks again.
        { printf '%s\n' "$settings" >"$PUPPET_PATHS_CACHE.$$" &&
            mv -f "$PUPPET_PATHS_CACHE.$$" "$PUPPET_PATHS_CACHE"; } 2>/dev/null
    fi
    while read -r name _ value; do
        case $name in
            agent_disabled_lockfile) PUPPET_DISABLEDLOCK=$value ;;
            agent_catalog_run_lockfile) PUPPET_RUNLOCK=$value ;;
            lastrunfile) PUPPET_SUMMARY=$value ;;
        esac
    done <<<"$settings"
    [[ -n ${PUPPET_DISABLEDLOCK:-} && -n ${PUPPET_RUNLOCK:-} && -n ${PUPPET_SUMMARY:-} ]]
}

if ! _puppet_paths; then
    echo "puppet-common: Puppet's paths are unknown: set VARDIR in $PUPPET_DEFAULTS, or make 'puppet config print' work" >&2
    return 1 2>/dev/null || exit 1
fi

# Whether the last run applied its whole catalog: a run that got no catalog leaves a summary without resources.
last_run_success() {
    awk '/^[a-z]/ { section = $1 }
         section == "resources:" && $1 == "failed:" { seen = 1; failures += $2 }
         section == "resources:" && $1 == "failed_to_restart:" { failures += $2 }
         section == "events:" && $1 == "failure:" { failures += $2 }
         END { exit !(seen && failures == 0) }' "$PUPPET_SUMMARY" 2>/dev/null
}

puppet_is_disabled() { [[ -f $PUPPET_DISABLEDLOCK ]]; }

# Print the process id of a run in progress; fail if there is none. Puppet leaves its lock behind when it is killed, so
# the process is looked at as Puppet itself does it: it is named puppet, or a ruby that runs puppet.
puppet_running_pid() {
    local pid='' name='' arguments
    read -r pid 2>/dev/null <"$PUPPET_RUNLOCK"
    [[ $pid =~ ^[0-9]+$ ]] && read -r name 2>/dev/null <"/proc/$pid/comm" || return
    # Empty for a process that has ended and waits for its parent.
    arguments=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")
    [[ -n $arguments && ($name == puppet* || ($name == *ruby* && $arguments == *puppet*)) ]] && echo "$pid"
}

# Print the message that Puppet was disabled with; nothing if there is none.
puppet_disabled_message() {
    local LC_ALL=C.UTF-8 content escaped i char
    content=$(cat "$PUPPET_DISABLEDLOCK" 2>/dev/null) || return
    [[ $content =~ \"disabled_message\"[[:space:]]*:[[:space:]]*\"(([^\"\\]|\\.)*)\" ]] || return
    escaped=${BASH_REMATCH[1]}
    if [[ $escaped != *\\* ]]; then
        printf '%s\n' "$escaped"
        return
    fi
    # printf knows all of JSON's escapes but \/ and \".
    content=
    for ((i = 0; i < ${#escaped}; i++)); do
        char=${escaped:i:1}
        if [[ $char == \\ ]]; then
            i=$((i + 1))
            char=${escaped:i:1}
            [[ $char == [/\"] ]] || char=\\$char
        fi
        content+=$char
    done
    printf '%b\n' "$content"
}

# Write Puppet's lock with the message $1; fail if Puppet is disabled already. Linked into place, which is atomic.
puppet_write_disabled_lock() {
    local LC_ALL=C.UTF-8 message=$1 json='' i char directory temporary failed=0
    for ((i = 0; i < ${#message}; i++)); do
        char=${message:i:1}
        case $char in
            \" | \\) json+=\\$char ;;
            $'\n') json+='\n' ;;
            $'\t') json+='\t' ;;
            [[:cntrl:]]) printf -v char '\\u%04x' "'$char" && json+=$char ;;
            *) json+=$char ;;
        esac
    done
    directory=$(dirname "$PUPPET_DISABLEDLOCK")
    mkdir -p "$directory" || return
    temporary=$(mktemp "$directory/.agent_disabled.XXXXXX") || return
    { printf '{"disabled_message":"%s"}' "$json" >"$temporary" && chmod 0644 "$temporary" &&
        ln "$temporary" "$PUPPET_DISABLEDLOCK" 2>/dev/null; } || failed=1
    rm -f "$temporary"
    return "$failed"
}
