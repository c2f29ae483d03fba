"""What hosts answer to the library's real commands."""


def of_unit(
    *,
    boot_id: str,
    uptime: float,
    started: float,
    invocation: str,
    load: str = "loaded",
    active: str = "active",
    result: str = "success",
    in_transition: bool = False,
    is_stale: bool = False,
) -> str:
    """Return what a host tells of a unit of systemd; see :func:`fleet.adapters.hosts.services.state`.

    Args:
        boot_id: the host's boot.
        uptime: seconds since then.
        started: when the unit was last started, in seconds since the boot.
        invocation: the id of that start.
        load: systemd's LoadState.
        active: systemd's ActiveState.
        result: systemd's Result.
        in_transition: whether a job is queued for it.
        is_stale: whether its files were changed and nobody ran daemon-reload.
    """
    return (
        f"fleet-boot-id={boot_id}\nfleet-uptime={uptime:.2f}\nfleet-LoadState={load}\nfleet-ActiveState={active}\n"
        f"fleet-Result={result}\nfleet-InvocationID={invocation}\n"
        f"fleet-InactiveExitTimestampMonotonic={started * 1e6:.0f}\nfleet-Job={'17' if in_transition else ''}\n"
        f"fleet-NeedDaemonReload={'yes' if is_stale else 'no'}\n"
    )
