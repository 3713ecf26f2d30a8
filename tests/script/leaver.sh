#!/bin/sh
# A script that leaves processes behind in every way there is, and notes their numbers in the file that
# is its argument.
log=$1
note() { printf '%s\n' "$*" >>"$log"; }
sleep 1000 &
note "in the group: $!"
setsid sh -c 'echo "in a session: $$" >>"$1"; sleep 1000' sh "$log" &
# Whoever starts it has gone before it has begun.
(setsid sh -c '(sleep 1000 & echo "an orphan: $!" >>"$1")' sh "$log" &)
printf '%%%%>install:80:user.auth\n'
note "started $$"
# It reads nothing, and does not end by itself.
trap '' TERM
while :; do sleep 1000; done
