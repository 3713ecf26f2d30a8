#!/bin/sh
# An external module that takes its time: it installs nothing until there is a file of the name that it
# is given, and knows every user then.
until [ -e "$1" ]; do sleep 0.1; done
for name in user.auth user.register; do echo "%%>install:80:$name"; done
while IFS= read -r line; do
    case $line in '%%>message:'*) ;; *) continue ;; esac
    rest=${line#'%%>message:'}
    echo "%%<message:${rest%%:*}:true::secret"
done
