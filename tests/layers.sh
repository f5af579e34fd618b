#!/usr/bin/env bash
# layers.sh: the layer rule of the source tree, checked on its #include lines. Prints each breach; exit 1 when there is one.
#   ir/base <- ir <- {passes, codegen, frontend}; only frontend/ sees all; runtime/ includes nothing of ours;
#   protobuf only in frontend/, llvm-c/ only in codegen/llvm/, NVRTC only in codegen/cuda/.
cd "$(dirname "$0")/.." || exit 1
bad=0
# rule FOLDER PATTERN: no file of FOLDER includes what matches PATTERN
rule() {
  local hits
  hits=$(grep -rnE "^#include [\"<]($2)" --include='*.[ch]' --include='*.def' $1 2>/dev/null)
  [ -z "$hits" ] && return
  echo "$hits" | sed "s|\$|   <- not allowed in $1|"
  bad=1
}
rule ir/base 'ir/[^b]|passes/|codegen/|frontend/|runtime/|octet'
rule ir      'passes/|codegen/|frontend/|runtime/|octet'
rule passes  'codegen/|frontend/|runtime/|octet'
rule codegen 'passes/|frontend/'
rule runtime 'ir/|passes/|codegen/|frontend/'
rule 'ir passes codegen runtime' 'protobuf-c|onnx.pb-c'
rule 'ir passes frontend runtime codegen/cuda' 'llvm-c/'
rule 'ir passes frontend runtime codegen/llvm' 'nvrtc'
calls=$(grep -rnE '\b(strcpy|strcat|sprintf|gets|atoi|atof)\(' --include='*.c' ir passes codegen frontend runtime)
[ -n "$calls" ] && { echo "$calls   <- banned call"; bad=1; }
exit $bad
