#!/bin/sh
# An external module that ends at once until there is a file of the name that it is given.
[ -e "$1" ] || exit 3
echo '%%>install:80:user.auth'
while IFS= read -r _; do :; done
