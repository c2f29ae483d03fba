"""What an operator has to know before the stages that cannot be undone."""

from fleet.engine.declaration import Question
from fleet.procedures.reinitialize import parts
from fleet.procedures.reinitialize.world import World


def before_the_outage(seen: World) -> Question:
    """Return the question before the first stage that hurts."""
    name = seen.cluster.name
    deletes = not seen.is_old_gone and int(seen.cluster.run.options.get("from_stage", 0)) <= parts.OUTAGE
    lines = [
        f"From here on there is an outage of the whole cluster {name}.",
        *((f"Stage 5 deletes the namespaces {', '.join(seen.managed)} with all that is in them.",) if deletes else ()),
        "Stage 7 stops the API.",
        *(("There is no rollback: the old etcd is gone.",) if seen.is_old_gone else ()),
    ]
    if not seen.is_old_gone:
        lines.append(
            f"The rollback (--abort {seen.cluster.run.id}) leads to the old etcd, and deploys the services of the"
            " managed namespaces anew; there is none any more once stage 19 is done."
        )
    return Question("\n".join(lines), name)


def before_the_rollback(seen: World, *, pooled: bool, deleted: bool) -> Question:
    """Return the question before the cluster leaves the new etcd again.

    Args:
        seen: the world.
        pooled: whether services may be pooled again already.
        deleted: whether managed namespaces were deleted, or are being.
    """
    name = seen.cluster.name
    without = ", without the managed namespaces" if deleted else ""
    lines = [
        f"The cluster {name} serves from {seen.new.name} already. Going back to the old etcd means:",
        *(("  - services that are pooled again already are depooled once more;",) if pooled else ()),
        f"  - the API stops, and serves what the old etcd has: as it was in stage 7{without};",
        f"  - what was created since is lost to the cluster; it stays in {seen.new.name}, which is not touched"
        f"{';' if deleted else '.'}",
        *(("  - the services of the managed namespaces are deployed anew.",) if deleted else ()),
    ]
    return Question("\n".join(lines), name)
