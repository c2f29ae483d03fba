"""Flags in /etc/default: what is read of them, and that nothing but the admission plugins changes."""

import shlex
import subprocess
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.adapters.hosts import defaults
from fleet.adapters.hosts.defaults import DefaultsError

DEBIAN = r"""# Options of kube-apiserver: --enable-admission-plugins=PodSecurityPolicy is explained elsewhere.
#DAEMON_ARGS="--etcd-servers=http://127.0.0.1:2379 \
# --x"

KUBE_LOGTOSTDERR='--logtostderr=true'
DAEMON_ARGS="--etcd-servers=https://etcd1:2379,https://etcd2:2379 \
 --enable-admission-plugins=NodeRestriction,PodSecurityPolicy \
 --etcd-servers-overrides=/events#https://etcd3:2379 \
 --service-cluster-ip-range 10.64.0.0/16 \
 --allow-privileged"
EMPTY=
"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("etcd-servers", "https://etcd1:2379,https://etcd2:2379"),
        ("enable-admission-plugins", "NodeRestriction,PodSecurityPolicy"),
        ("service-cluster-ip-range", "10.64.0.0/16"),
        ("allow-privileged", "true"),
        ("logtostderr", "true"),
        ("etcd", None),
        ("disable-admission-plugins", None),
    ],
)
def test_a_flag_is_read(name, value):
    assert defaults.flag(DEBIAN, name) == value


def test_plugins_are_taken_out_and_nothing_else_changes():
    assert defaults.without_plugins(DEBIAN, ["PodSecurityPolicy"]) == DEBIAN.replace(",PodSecurityPolicy \\", " \\")
    assert defaults.without_plugins(DEBIAN, ["NodeRestriction"]) == DEBIAN.replace("NodeRestriction,", "")
    assert defaults.without_plugins(DEBIAN, ["NodeRestriction", "PodSecurityPolicy"]) == DEBIAN.replace(
        " \\\n --enable-admission-plugins=NodeRestriction,PodSecurityPolicy", ""
    )
    assert defaults.without_plugins(DEBIAN, ["AlwaysPullImages"]) == DEBIAN
    assert defaults.without_plugins(DEBIAN, []) == DEBIAN


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("A=--enable-admission-plugins=P\n", "A=\n"),
        ("A='--enable-admission-plugins=P --x'", "A=' --x'"),
        ('A="--x --enable-admission-plugins P"', 'A="--x"'),
        ('A="--x --enable-admission-plugins \\\n P,Q --y"', 'A="--x --enable-admission-plugins \\\n Q --y"'),
        ('A="--x --enable-admission-plugins=P,Q,P"', 'A="--x --enable-admission-plugins=Q"'),
        ('A="--x "--enable-admission-plugins=P', 'A="--x "'),
        ('A="\\\n--enable-admission-plugins=P"', 'A=""'),
        ('A="--x=$HOME --enable-admission-plugins=P"', 'A="--x=$HOME"'),
        ('A="--x=\\"y\\" --enable-admission-plugins=P"', 'A="--x=\\"y\\""'),
    ],
)
def test_plugins_are_taken_out_however_they_are_written(text, changed):
    assert defaults.without_plugins(text, ["P"]) == changed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('A="--enable-admission-plugins=P --enable-admission-plugins=Q"', "more than once"),
        ('A="--enable-admission-plugins=P"\nB="--enable-admission-plugins=Q"', "more than once"),
        ('A="--enable-admission-plugins=P"\nA="--x"', "A, with .* in it, is set more than once"),
        ('A="--enable-admission-plugins=$PLUGINS"', "made of variables"),
        ('A="--enable-admission-plugins=P,${MORE}"', "made of variables"),
        ('A="--enable-admission-plugins $PLUGINS"', "made of variables"),
        ('FLAG=enable-admission-plugins\nA="--$FLAG=P"', "in parts"),
        ("A=\"--enable-admission-plugins='P'\"", "has quotes in it"),
        ('A="--enable-admission-plugins=P,\\\nQ"', "continued within itself"),
        ('A=--enable-admission-plugins="P"', "quoted or continued within itself"),
        ('A="--enable-admission-plugins "P', "quotes between"),
        ("A=--x --enable-admission-plugins=P", "Line 1 .*something follows the value"),
        ('A="--x" # --enable-admission-plugins=P', "something follows the value"),
        ('\nA="--x', 'Line 2 .*the quote " is not closed'),
        ('A="$(cat /etc/flags)"', "the output of a command"),
        ('A="`cat /etc/flags`"', "the output of a command"),
        ('A="--x\u00a0--enable-admission-plugins=P"', "in parts"),  # one word to the daemon
        ('A="--x --enable-admission-plugins=P"\r\n', r"'\\r' is outside of quotes"),
        ('A="--enable-admission-plugins=P;"', "has 'P;' in it"),
        ("A=x;reboot", "';' is outside of quotes"),
        (". /etc/default/common", "neither a comment nor NAME=VALUE"),
        ('export A="--x"', "neither a comment"),
        ('A+=" --enable-admission-plugins=P"', "neither a comment"),
        ('# old: \\\nA="--x"', "Line 1 .*a comment that ends with a backslash"),
    ],
)
def test_what_is_not_understood_is_not_changed(text, message):
    with pytest.raises(DefaultsError, match=message):
        defaults.without_plugins(text, ["P"])


def test_a_flag_that_is_there_twice_has_no_value():
    with pytest.raises(DefaultsError, match="--x is there more than once"):
        defaults.flag('A="--x=1 --x=2"', "x")


PLUGIN = st.sampled_from(["PodSecurityPolicy", "NodeRestriction", "DenyEscalatingExec", "Priority"])
PLUGINS = st.lists(PLUGIN, max_size=5)
GAP = st.sampled_from([" ", "  ", "\t", " \\\n", " \\\n  ", "\\\n "])
SAFE = st.text("abcXYZ09=,./:#$-_{}", min_size=1, max_size=12).map(lambda text: f"--x{text}")
LINE = st.sampled_from(
    ["\n", "# a comment: it's --enable-admission-plugins=Priority\n", "OTHER='--y \"z\"'\n", "NONE=\n"]
)


@st.composite
def files(draw):
    """Return a file, and the words that the flags in it are."""
    words = draw(st.lists(SAFE, max_size=3))
    if draw(st.booleans()):
        value = ",".join(draw(PLUGINS))
        if value and draw(st.booleans()):
            own = ["--enable-admission-plugins", value]
        else:
            own = [f"--enable-admission-plugins={value}"]
        position = draw(st.integers(0, len(words)))
        words[position:position] = own
    quote = draw(st.sampled_from("\"'"))
    gap = GAP if quote == '"' else st.sampled_from([" ", "\t", "  "])
    value = draw(st.sampled_from(["", " "])) + "".join(word + draw(gap) for word in words)
    before, after = "".join(draw(st.lists(LINE, max_size=3))), "".join(draw(st.lists(LINE, max_size=3)))
    return f"{before}DAEMON_ARGS={quote}{value}{quote}\n{after}", words


def shown(text: str) -> list[str]:
    """Return the words of the variable, as a shell has them."""
    script = f"set -f\n{text}\nprintf '%s\\0' $DAEMON_ARGS"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True)
    return done.stdout.split("\0")[:-1]


def wanted(words: list[str], plugins: set[str]) -> list[str]:
    """Return the words without plugins."""
    result: list[str] = []
    split = [part for word in words for part in ([word] if not word.startswith("--enable-ad") else word.split("=", 1))]
    pairs = [*pairwise([*split, ""])]
    skip = False
    for word, following in pairs:
        if skip:
            skip = False
        elif word == "--enable-admission-plugins":
            skip = True
            left = [plugin for plugin in following.split(",") if plugin not in plugins]
            result += [word, ",".join(left)] if left else []
        else:
            result.append(word)
    return result


@given(files(), st.sets(PLUGIN))
def test_only_the_plugins_change_and_only_once(file, plugins):
    text, words = file
    changed = defaults.without_plugins(text, plugins)

    assert defaults.without_plugins(changed, plugins) == changed
    left = defaults.flag(changed, "enable-admission-plugins")
    assert not plugins.intersection((left or "").split(","))
    before = defaults.flag(text, "enable-admission-plugins")
    if not plugins.intersection((before or "").split(",")):
        assert changed == text
    assert wanted(words, plugins) == wanted(quoted(changed), set())


def quoted(text: str) -> list[str]:
    """Return the words of the variable as the standard library's shell lexer has them."""
    joined = text.replace("\\\n", "")  # it does not know of lines that go on
    assignment = next(token for token in shlex.split(joined, comments=True) if token.startswith("DAEMON_ARGS="))
    return assignment.removeprefix("DAEMON_ARGS=").split()


@pytest.mark.parametrize("plugins", [["PodSecurityPolicy"], ["PodSecurityPolicy", "NodeRestriction"]])
def test_a_shell_reads_the_same(plugins):
    words = [word for word in shown(DEBIAN) if not word.startswith("--enable-admission")]
    changed = defaults.without_plugins(DEBIAN, plugins)
    assert [word for word in shown(changed) if not word.startswith("--enable-admission")] == words
    found = [word for word in shown(changed) if word.startswith("--enable-admission")]
    assert found == ([] if len(plugins) == 2 else ["--enable-admission-plugins=NodeRestriction"])
