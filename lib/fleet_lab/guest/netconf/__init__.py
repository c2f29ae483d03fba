"""The lab's stand-in for a Junos router: NETCONF over SSH, answered from the live state of FRR's bgpd.

``python3 -m netconf CONFIG.json`` runs it; it needs asyncssh (2.10 or newer) and the folder that holds this package as
working directory. Once it takes connections it prints ``listening on ADDRESS port PORT``, a line for each address.

The configuration is a JSON object:

* ``listen``: the addresses to listen on; ``port``: NETCONF's is 830, 0 is any that is free.
* ``host_key``, ``other_host_key``: paths of two private keys; the second one is what the fault :data:`HOST_KEY` shows.
* ``users``: an object for each name, with ``authorized_keys`` (a path), ``password`` or both.
* ``vtysh``: the command that asks FRR, such as ``["vtysh"]``; ``-c`` and a command of FRR's are appended.
* ``faults``: a folder; a fault is active as long as there is a file with its name.
* ``router_id``, ``local_as``: the router's, as it is told of peers that FRR does not tell it of.
* ``groups``: the BGP group of each peer by address; peers that are not in it have FRR's peer group or :data:`GROUP`.
* ``base_1_1``: whether base:1.1 with its chunks is offered too; without it as on a device that is not set to be
  ``rfc-compliant``.

What it can:

* Log-ins with key or password, subsystem ``netconf``, any number of sessions. RPCs of a session are answered in order.
* ``get-bgp-summary-information``, ``get-bgp-neighbor-information`` (all peers, or one by ``neighbor-address``),
  ``command`` with ``show bgp summary`` and ``show bgp neighbor [ADDRESS]`` (text of the former, XML of both, and what
  ``| display xml rpc`` says of them), ``close-session``. Everything else is an ``rpc-error``. What comes is in the
  format of Junos 18.4: the ``junos:`` namespace, newlines around all text, ``peer-address`` with a port.

What it cannot, which a device can:

* It shows BGP and nothing else. There is no configuration, no facts (host name, model, version), no other pipe than
  ``display xml rpc``, no format but XML and text, no permission class: whoever can log in may ask for everything.
* FRR does not count as Junos does. Prefixes that the import policy refuses are in no count, so that received is
  accepted; all accepted prefixes are called active; nothing is suppressed. A peer that was never up has been down for
  0 seconds. Peers come in the order of their addresses. Tables are ``inet.0`` and ``inet6.0``: no VRFs, and no other
  address family.
* Of a peer, ``get-bgp-neighbor-information`` tells what a client of this project may want to know; options, timers and
  errors of a real device are left out. Graceful restart counts as negotiated if the peer asked for it and the router
  offers at least to help; a peer that only helps others is one that restarts not (``peer-no-restart``).
"""

HANGS = "netconf-hangs"
"""Replies to RPCs stop in the middle; the connection stays open."""

HOST_KEY = "netconf-host-key"
"""The server shows its other host key. Connections that are open when it comes are closed."""

LOGIN = "netconf-login"
"""No log-in is accepted. Connections that are open when it comes are closed."""

FAULTS = (HANGS, HOST_KEY, LOGIN)
"""All faults."""

GROUP = "peers"
"""The group of peers that have no other."""
