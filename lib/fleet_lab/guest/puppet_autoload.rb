# Loaded before Puppet: `ruby -r THIS /usr/bin/puppet …`. What runs is Puppet all the same, in two thirds of the time.
#
# Puppet's autoloader loads a file and adds it to $LOADED_FEATURES itself. To Ruby 3.1 that list has changed by another
# hand then: at the next `require` it looks up the real path of all that was ever loaded, 300,000 system calls a run.
# `require` loads a file once as well, and adds it to the list in order.
require 'puppet'
require 'puppet/util/autoload'

class << Puppet::Util::Autoload
  def mark_loaded(name, file)
    loaded[cleanpath(name).chomp('.rb')] = [File.expand_path(file), File.mtime(file)]
  end

  def load_file(name, env)
    file = get_file(name.to_s, env)
    return false unless file

    mark_loaded(name, file)
    require File.expand_path(file)
    true
  end
end
