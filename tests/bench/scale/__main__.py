"""``python -m bench.scale``: run it for several sizes, print a table, write JSON."""

import argparse
import json
import os
import pstats
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.scale import bound
from bench.scale.cluster import ControlPlane, use_of
from bench.scale.wire import Wire
from bench.scale.world import ROUTERS
from support.apiserver import MAINTENANCE_TOKEN, TOKEN, eventually
from worlds.network import ASN

HERE = Path(__file__).parent
LAST = HERE.parent / "last.json"
"""The last release's."""
AT_LEAST = 10
"""So many times the nodes at once there are at least: where a fifth of all pods leaves, only budgets set the pace."""
PER_ROW, PODS_PER_NODE, PER_BUDGET = 50, 10, 20


def cluster_config(kubeconfig: Path, most: int, rows: int) -> dict[str, Any]:
    """Return the configuration of the cluster: the defaults, but for what is said here."""
    return {
        "kubeconfig": str(kubeconfig),
        "hosts": {"workers": "w*", "control_plane": "cp1"},
        "limits": {"max_unavailable": most, "max_domains": rows},
        "bgp": {
            "routers": {name: {} for name in ROUTERS},
            "username": "fleet",
            "ssh_key": "/etc/fleet/key",
            "known_hosts": "/etc/fleet/known_hosts",
            "asn": ASN,
            "stable": "0s",
        },
    }


def measure(nodes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return what one run over so many nodes took."""
    folder = Path(tempfile.mkdtemp(prefix=f"fleet-bench-{nodes}-"))
    print(f"{nodes} nodes: {folder}", flush=True)
    plane = ControlPlane(folder)
    others: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}"}

    def spawn(module: str, settings: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
        path = folder / f"{module}.json"
        path.write_text(json.dumps(settings))
        with (folder / f"{module}.log").open("w") as log:
            command = [sys.executable, "-m", f"bench.scale.{module}", str(path)]
            others.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        return others[-1]

    try:
        plane.start()
        socket = folder / "world.sock"
        begin = time.monotonic()
        world = spawn(
            "world",
            {
                "port": plane.port,
                "token": TOKEN,
                "folder": str(folder / "kubelets"),
                "socket": str(socket),
                "nodes": nodes,
                "row": PER_ROW,
                "pods": nodes * PODS_PER_NODE,
                "budgets": nodes * PODS_PER_NODE // PER_BUDGET,
                "boot": options.boot,
            },
        )
        eventually(lambda: socket.exists() or world.poll() is not None, 1200)
        assert world.poll() is None, (folder / "world.log").read_text()[-3000:]
        print(f"{nodes} nodes and their pods are there after {time.monotonic() - begin:.0f} s", flush=True)
        time.sleep(5)
        kubeconfig = plane.write_kubeconfig(port=plane.port, token=MAINTENANCE_TOKEN)
        kubeconfig.chmod(0o600)
        state = folder / "state"
        state.mkdir(mode=0o700)
        at_once = min(options.at_once, nodes // AT_LEAST)
        before, world_before = plane.use(), use_of(world.pid)
        load = os.getloadavg()[0]
        settings: dict[str, Any] = {
            "started": time.time(),
            "cluster": cluster_config(kubeconfig, at_once, options.rows),
            "state": str(state),
            "socket": str(socket),
            "log": str(folder / "output.log"),
            "answer": str(folder / "answer.json"),
            "profile": str(folder / "profile") if options.profile else "",
        }
        session = spawn("session", settings)
        try:
            code = session.wait(timeout=options.most)
        except subprocess.TimeoutExpired:
            session.send_signal(signal.SIGINT)  # what is in flight continues to its end
            code = session.wait(timeout=600)
        after, world_after = plane.use(), use_of(world.pid)
        assert code == 0, (folder / "session.log").read_text()[-3000:] + (folder / "output.log").read_text()[-3000:]
        found = json.loads((folder / "answer.json").read_text())
        seen = Wire(socket).call("own")
        if options.profile:
            profile = pstats.Stats(settings["profile"])
            for order in ("cumulative", "tottime"):
                profile.sort_stats(order).print_stats(50)
        own, row_of, reboots = seen.pop("own"), seen.pop("rows"), seen.pop("reboots")
        if found["code"] or set(reboots.values()) != {1} or len(reboots) < nodes:
            print(f"NOT ALL IS DONE: {len(reboots)} of {nodes} rebooted, held: {found['held']}", flush=True)
        rows: dict[str, list[float]] = {}
        for name in own:
            if name in reboots:
                rows.setdefault(row_of[name], []).append(own[name])
        done = len(reboots)
        least = bound.least(rows, most=at_once, rows_at_once=options.rows)
        wall = found["wall"]
        return {
            "nodes": nodes,
            "pods": nodes * PODS_PER_NODE,
            "at_once": at_once,
            "rows_at_once": options.rows,
            "bound": least,
            "own": sum(own[name] for name in reboots) / done,
            "ratio": wall / least,
            **found,
            "rebooted_once": sum(times == 1 for times in reboots.values()),
            "requests_per_node": sum(found["requests"].values()) / done,
            "cpu_per_node": found["cpu"] / done,
            "cores": found["cpu"] / wall,
            "load_before": load,
            "others": {
                **{
                    name: {"cores": use.since(before[name]).cpu / wall, "memory": use.memory}
                    for name, use in after.items()
                },
                "simulation": {"cores": world_after.since(world_before).cpu / wall, "memory": world_after.memory},
            },
            **seen,
        }
    finally:
        for process in reversed(others):
            process.kill()
            process.wait()
        plane.stop()
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def table(results: list[dict[str, Any]], before: list[dict[str, Any]]) -> str:
    """Return the numbers for people: a column a size; those of the last release in parentheses."""
    last = {result["nodes"]: result for result in before}

    def row(title: str, of: Callable[[dict[str, Any]], str]) -> str:
        cells = []
        for result in results:
            then = last.get(result["nodes"])
            cells.append(f"{of(result)}{f' ({of(then)})' if then else ''}")
        return f"{title:38}" + "".join(f"{cell:>18}" for cell in cells)

    lines = [row("nodes", lambda result: str(result["nodes"]))]
    lines += [row(title, lambda result, of=of: of(result)) for title, of in ROWS]  # type: ignore[misc]
    lines.append("steps, s on average:")
    for step in results[-1]["steps"]:
        lines.append(row(f"  {step}", lambda result, step=step: f"{result['steps'].get(step, 0):.2f}"))  # type: ignore[misc]
    return "\n".join(lines)


ROWS: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("nodes at once", lambda result: f"{result['at_once']}"),
    ("wall time, s", lambda result: f"{result['wall']:.0f}"),
    ("bound, s", lambda result: f"{result['bound']:.0f}"),
    ("wall time / bound (at most 1.15)", lambda result: f"{result['ratio']:.2f}"),
    ("a host's own time on average, s", lambda result: f"{result['own']:.1f}"),
    ("plan shown after, s (at most 10)", lambda result: f"{result['plan']:.1f}"),
    ("requests to the API per node", lambda result: f"{result['requests_per_node']:.0f}"),
    ("memory, MiB (under 400)", lambda result: f"{result['memory']:.0f}"),
    ("cores (under 0.25)", lambda result: f"{result['cores']:.2f}"),
    ("CPU per node, s", lambda result: f"{result['cpu_per_node']:.2f}"),
    ("longest decision, ms (under 50)", lambda result: f"{result['decisions']['longest'] * 1000:.1f}"),
    ("nodes rebooted, each once", lambda result: f"{result['rebooted_once']}"),
    ("held", lambda result: f"{len(result['held'])}"),
    ("cores of kube-apiserver", lambda result: f"{result['others']['kube-apiserver']['cores']:.2f}"),
    (
        "cores of all processes",
        lambda result: f"{result['cores'] + sum(other['cores'] for other in result['others'].values()):.2f}",
    ),
    ("load of the machine before", lambda result: f"{result['load_before']:.1f}"),
]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("nodes", nargs="*", type=int, default=[100, 300, 1000])
    parser.add_argument("--at-once", type=int, default=20, help="nodes at once")
    parser.add_argument("--rows", type=int, default=2, help="rows at once")
    parser.add_argument("--boot", type=float, default=10.0, help="seconds that a boot takes in the middle")
    parser.add_argument("--most", type=float, default=7200.0, help="seconds after which no further node starts")
    parser.add_argument("--profile", action="store_true", help="profile the session, and print where its time goes")
    parser.add_argument("--keep", action="store_true", help="keep journals and logs")
    parser.add_argument("--json", type=Path, default=Path("build/bench-scale.json"), help="where the numbers go")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing that was started is left
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it would be ignored, by children too
    before = json.loads(LAST.read_text()) if LAST.exists() else []
    results = []
    for nodes in options.nodes:
        results.append(measure(nodes, options))
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
        print(table(results, before), flush=True)


if __name__ == "__main__":
    main()
