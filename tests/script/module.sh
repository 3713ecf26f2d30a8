#!/bin/sh
# An external module in plain shell, written from the protocol alone: it knows two users, counts what
# it is told, and says what it was asked. Its argument is the file that it writes to.
log=$1
say() { printf '%s\n' "$*"; }
note() { printf '%s\n' "$*" >>"$log"; }

# The value of a parameter of the message in $line, as it is written.
param() { printf '%s' "$line" | tr ':' '\n' | sed -n "s/^$1=//p" | head -n 1; }

say '%%>setlocal:restart:true'
for name in user.auth user.register user.unregister; do say "%%>install:80:$name"; done
say '%%>install:80:engine.start'
say '%%>install:80:engine.halt'
say '%%>watch:user.register'
note "started as $(id -u):$(id -g), $(ulimit -n) files, nice $(nice), pid $$"
# What it leaves behind has to go with it.
sleep 1000 &
note "child $!"

while IFS= read -r line; do
    case $line in
    '%%>message:'*) ;;
    '%%<message::'*) note "watched $(param username)"; continue ;;
    *) note "$line"; continue ;;
    esac
    rest=${line#'%%>message:'}
    id=${rest%%:*} rest=${rest#*:} rest=${rest#*:}
    name=${rest%%:*}
    user=$(param username)
    note "$name $user $(param data)"
    case $name:$user in
    user.auth:one) say "%%<message:$id:true::first" ;;
    user.auth:two) say "%%<message:$id:true::seco%znd:expires=77" ;;
    user.auth:bad) say "%%<message:$id:true::-:error=forbidden" ;;
    user.register:one | user.register:two) say "%%<message:$id:true:" ;;
    user.unregister:*) say "%%<message:$id:true:" ;;
    *) say "%%<message:$id:false:" ;;
    esac
done
