#!/bin/sh
# The man page: the written part, with the verbs as `plimsoll --help` lists them.
# make_man.sh PLIMSOLL PAGE
set -eu
verbs=$("$1" --help | awk '
  /^Subcommands:/ { on = 1; next }
  on && /^  [a-z]/ { verb = $1; sub(/^ +[a-z-]+ +/, ""); printf ".TP\n.B %s\n%s\n", verb, $0; next }
  on && /^ +/ { sub(/^ +/, ""); print; next }
  on { exit }')
[ -n "$verbs" ]
awk -v verbs="$(printf '%s' "$verbs" | sed 's/\\/\\\\/g')" '{ print } /^\.SH VERBS/ { print verbs }' "$2"
