# What Puppet keeps as it is on the hosts of the lab. Settings are in ../data, the texts of files in ../templates.
if find_file('/run/fleet-lab/faults/puppet-fails') {
  fail('this host has the fault puppet-fails')
}

$templates = '/etc/puppet/code/environments/production/templates'
$endpoints = lookup('etcd::endpoints', Array[String]).join(',')

file { '/etc/motd':
  content => "A host of fleet-lab, configured by Puppet.\n",
}

if lookup('calico', Boolean, 'first', false) {
  file { '/etc/calico/calicoctl.cfg':
    content => epp("${templates}/calicoctl.cfg.epp", { 'endpoints' => $endpoints }),
  }
}

$flags = lookup('kube_apiserver::flags', Hash[String, String], 'first', {})
unless $flags.empty {
  $arguments = ($flags + { 'etcd-servers' => $endpoints }).map |$flag, $value| { "--${flag}=${value}" }
  file { '/etc/default/kube-apiserver':
    content => epp("${templates}/kube-apiserver.epp", { 'arguments' => $arguments.join(" \\\n") }),
  }
  # Told of no state that it should be in: a change restarts it where it runs, and what is stopped stays stopped.
  ~> service { 'kube-apiserver': }
}
