#!/usr/bin/env bash
# run.sh: octet from outside, on the digits model: the four kinds of artefact and what is in them, equal bytes and equal results, exit codes,
# and input that is wrong: one clear message, in bounded time and memory, and no file left. Needs octet on the PATH, a C compiler, binutils and
# python3. Prints "ok NAME" or "FAIL NAME" and closes with the totals.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
octet=$(command -v octet) || { echo "no octet on the PATH"; echo "0 passed, 1 failed"; exit 1; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
digits=$root/samples/digits/digits.onnx calibration=$root/samples/digits/calibration images=$root/samples/digits/images.npz
export TMPDIR=$work/tmp
mkdir -p "$TMPDIR" "$work/bad" "$work/out"
cd "$work/out" || exit 1
python3 "$root/tests/cli/make.py" "$work/bad" "$calibration" || { echo "FAIL make.py"; echo "0 passed, 1 failed"; exit 1; }

ok() { echo "ok $1"; passed=$((passed + 1)); }
bad() { echo "FAIL $1: $2"; failed=$((failed + 1)); }

# check NAME COMMAND...: the command must succeed.
check() {
  local name=$1
  shift
  if "$@" > "$work/log" 2>&1; then ok "$name"; else bad "$name" "$(tail -n 3 "$work/log" | tr '\n' ' ')"; fi
}

# refused NAME CODE PATTERN COMMAND...: ends with that code within 30 seconds and 6 GB, says PATTERN in at most twelve lines on standard error,
# says nothing on standard output, and leaves neither a file here nor in TMPDIR.
refused() {
  local name=$1 code=$2 pattern=$3 before after rc lines
  shift 3
  before=$(ls -A . "$TMPDIR")
  (ulimit -v 6000000; exec timeout 30 "$@") > "$work/stdout" 2> "$work/stderr" < /dev/null
  rc=$?
  after=$(ls -A . "$TMPDIR")
  lines=$(wc -l < "$work/stderr")
  if [ $rc != "$code" ]; then bad "$name" "code $rc, expected $code: $(head -n 2 "$work/stderr" | tr '\n' ' ')"
  elif ! grep -q -e "$pattern" "$work/stderr"; then bad "$name" "'$(head -n 1 "$work/stderr")' does not say '$pattern'"
  elif [ "$lines" -gt 12 ]; then bad "$name" "$lines lines of message"
  elif [ -s "$work/stdout" ]; then bad "$name" "writes to standard output"
  elif [ "$before" != "$after" ]; then bad "$name" "leaves files: $after"
  else ok "$name"; fi
}

# ---- branches ----
# branches MODEL CALL WANT HOW...: calls 0 to 3 of the folder, by the artefact b.so, or the model interpreted.
branches() {
  local i from model=$1 call=$2 want=$3
  shift 3
  octet compile "$work/branches/$model.onnx" -o "$work/branches/b.so" --quiet || return 1
  for i in 0 1 2 3; do
    for from in "$@"; do
      # shellcheck disable=SC2086
      (cd "$work/branches" && octet run $from --input "$call-$i.npz" --output got.npz && python3 "$root/tests/cli/close.py" 1e-6 "$want-$i.npz" got.npz) || return 1
    done
  done
}
mkdir -p "$work/branches"
check branches-written python3 "$root/tests/cli/branches.py" "$work/branches"
check data-decides-sizes branches data data results b.so
refused data-sizes-interpreted 1 'sizes that depend on data cannot be interpreted' octet run "$work/branches/data.onnx" --interp --input "$work/branches/data-0.npz" --output -
check only-the-branch-taken branches branches call want b.so 'branches.onnx --interp'
refused branch-that-does-not-fit 1 'N must equal 8 (6 and 8)' octet run "$work/branches/b.so" --input "$work/branches/misfit.npz" --output -
# What data turns out to be is compared with what the model took it for.
counts() { octet compile "$work/branches/count.onnx" -o "$work/branches/c.so" --quiet && octet run "$work/branches/c.so" --input "$work/branches/count-4.npz" --output "$work/branches/got.npz"; }
check data-size-that-fits counts
refused data-size-that-does-not-fit 1 'must equal 4 (5 and 4)' octet run "$work/branches/c.so" --input "$work/branches/count-5.npz" --output -

# ---- artefacts ----
check compile-so octet compile "$digits" -o digits.so --quiet
check compile-o octet compile "$digits" -o digits.o --quiet
check compile-a octet compile "$digits" -o libdigits.a --quiet
check compile-executable octet compile "$digits" -o digits --quiet
check compile-int8 octet compile "$digits" -o digits8.so --quantize int8 --calibrate "$calibration" --quiet
check compile-int8-executable octet compile "$digits" -o digits8 --quantize int8 --calibrate "$calibration" --quiet
check compile-bf16 octet compile "$digits" -o "$work/digits-bf16.so" --quantize bf16 --quiet
check compile-odd-path octet compile "$digits" -o "$work/a, b.so" --quiet
check compile-fp16 octet compile "$digits" -o "$work/digits-fp16.so" --quantize fp16 --quiet
check leaves-no-temporaries test -z "$(ls -A "$TMPDIR")"
check only-what-was-asked test "$(ls | tr '\n' ' ')" = "digits digits.h digits.o digits.so digits8 digits8.h digits8.so libdigits.a libdigits.h "

# Every form of the same samples gives the same ranges.
# Without gains: they are chosen and judged on samples, of which one batch is a single one.
ranges_of() { octet compile "$digits" -o "$work/ranged.so" --quiet --quantize int8 --target native --smooth off --save-ranges "$work/$1.ranges" "${@:2}"; }
same_ranges() { ranges_of other "$@" && cmp "$work/first.ranges" "$work/other.ranges"; }
check ranges-npz ranges_of first --calibrate "$calibration"
check ranges-npy same_ranges --calibrate "$work/bad/same/npy"
check ranges-sets same_ranges --calibrate "$work/bad/same/sets"
check ranges-stack-npy same_ranges --calibrate "$work/bad/same/stack.npy"
check ranges-stack-npz same_ranges --calibrate "$work/bad/same/stack.npz"
check ranges-command same_ranges --calibrate-cmd "cat $calibration/*.npz"
# One sample of many rows: enough for products to be tried out.
figures() { sed 's/\tnoise=[^\t]*//' "$work/$1.ranges" | sort; }
same_figures() { ranges_of other "$@" && grep -q 'noise=[0-9]' "$work/other.ranges" && [ "$(figures first)" = "$(figures other)" ]; }
check ranges-one-batch same_figures --calibrate "$work/bad/same/flat.npy"
check ranges-fixed-batch ranges_of fixed --calibrate "$work/bad/same/flat.npy" --dim batch=1
check ranges-fixed-batch-same cmp "$work/first.ranges" "$work/fixed.ranges"
calibrate_random() { ranges_of random --calibrate random:4 --report "$work/random.json" > "$work/said" 2>&1 && grep -q 'RANDOM DATA' "$work/said" && grep -q '"calibration":.*"random"' "$work/random.json"; }
check ranges-random calibrate_random

# Smoothed channels: found, told, kept with the ranges, and not there where nobody wants them.
smoothed() { octet compile "$work/bad/uneven.onnx" -o "$work/$1.so" --quantize int8 --target avx2 "${@:2}" > "$work/said" 2>&1; }
smooth_told() { smoothed even --calibrate "$work/bad/uneven" --save-ranges "$work/even.ranges" && grep -q 'the inputs of 1 of them have smoothed channels' "$work/said" && grep -q 'gains=[0-9]' "$work/even.ranges"; }
smooth_again() { smoothed again --ranges "$work/even.ranges" --save-ranges "$work/again.ranges" && grep -q 'smoothed channels' "$work/said" && cmp "$work/even.ranges" "$work/again.ranges"; }
# Names inside of functions that are called twice, and of branches, stand for other values each time.
like_float() {
  local model="$work/bad/$1.onnx" samples="$work/bad/$2"
  octet compile "$model" -o "$work/$1.so" --quantize int8 --calibrate "$samples" --report "$work/$1.json" --quiet && octet compile "$model" -o "$work/$1-float.so" --quiet || return 1
  for i in 0 1; do
    for p in $1 $1-float; do octet run "$work/$p.so" --input "$samples/$i.npz" --output "$work/$p.npz" || return 1; done
    python3 "$root/tests/cli/close.py" 0.03 "$work/$1-float.npz" "$work/$1.npz" && ! python3 "$root/tests/cli/close.py" 1e-4 "$work/$1-float.npz" "$work/$1.npz" 2> /dev/null || return 1
  done
}
check names-in-functions like_float called uneven
check names-in-branches like_float branched branched
# What few bits cost the outputs is measured, of values and of weights, unless places alone decide.
costs_told() {
  octet compile "$digits" -o "$work/costs.so" --quantize $1 --calibrate "$calibration" --report "$work/costs.json" > "$work/said" 2>&1 && grep -q "  rounding $3 costs the outputs .* nats of divergence, at most" "$work/said" &&
    python3 -c 'import json, sys
report = json.load(open(sys.argv[1]))
costs, layers = report["costs"], [l for l in report["layers"] if "cost" in l]
assert costs["of"] == sys.argv[2] and costs["unit"] == "nats" and 0 < costs["left"] <= costs["bound"], costs
assert layers and all(0 <= l["cost"] < costs["bound"] and not l["spared"] for l in layers), layers' "$work/costs.json" "$2"
}
check costs-of-values costs_told int8 values 'the values of 8-bit products'
check costs-of-weights costs_told fp8-e5m2 weights 'their weights'
costs_off() { octet compile "$digits" -o "$work/costs.so" --quantize fp8 --spare off --calibrate "$calibration" > "$work/said" 2>&1 && ! grep -q 'the outputs' "$work/said"; }
check costs-off costs_off
smooth_off() { smoothed off --calibrate "$work/bad/uneven" --smooth off --save-ranges "$work/off.ranges" && ! grep -q smoothed "$work/said" && ! grep -q 'gains=[0-9]' "$work/off.ranges" && ! cmp -s "$work/even.so" "$work/off.so"; }
check smooth-told smooth_told
check smooth-by-ranges smooth_again
check smooth-off smooth_off
# Equalization is judged by the samples, layer by layer.
equalize_told() {
  octet compile "$digits" -o "$work/even.so" --quantize int8 --calibrate "$calibration" --equalize on --report "$work/even.json" > "$work/said" 2>&1 && grep -q '  equalization: [0-9]* layers' "$work/said" &&
    python3 -c 'import json, sys
tried = [t for l in json.load(open(sys.argv[1]))["layers"] for t in l.get("rewritings", [])]
assert tried and all(t["technique"] == "equalization" and 10 < t["before_db"] < 90 and 10 < t["after_db"] < 90 for t in tried), tried' "$work/even.json"
}
check equalize-told equalize_told
wide_told() { smoothed wide --calibrate "$work/bad/uneven" --smooth off && grep -q 'the inputs of 1 of them have 16 bits' "$work/said"; }
wide_off() { smoothed narrow --calibrate "$work/bad/uneven" --smooth off --wide off && ! grep -q '16 bits' "$work/said" && ! cmp -s "$work/wide.so" "$work/narrow.so"; }
wide_again() { smoothed kept --calibrate "$work/bad/uneven" --smooth off --calibration-cache "$work/wide.cache" && smoothed again --ranges "$work/wide.cache" && grep -q 'the inputs of 1 of them have 16 bits' "$work/said"; }
wide_needless() { smoothed even --calibrate "$work/bad/uneven" && ! grep -q '16 bits' "$work/said"; }
check wide-told wide_told
check wide-off wide_off
check wide-by-ranges wide_again
check wide-needless wide_needless

# Memory does not grow with the number of samples: forty times as many, at most 4 MB more.
peak_of() { python3 -c 'import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)' octet compile "$digits" -o "$work/ranged.so" --quiet --quantize int8 --target native --calibrate-cmd "$1"; }
same_peak() { local few many; few=$(peak_of "cat $calibration/*.npz") && many=$(peak_of "for i in \$(seq 40); do cat $calibration/*.npz; done") && [ "$many" -lt $((few + 4096)) ]; }
check calibrate-fixed-memory same_peak

# What calibration has seen, in a file: used again without running anything, gone on from after an interruption, edited, made anew for other
# samples and another model.
kept=$work/kept.ranges
kept_ranges() { ranges_of other --calibration-cache "$kept" "$@" 2> "$work/said" && cmp "$work/first.ranges" "$work/other.ranges"; }
seen() { grep -qx "#! samples $1" "$kept"; }
check kept-first kept_ranges --calibrate "$calibration"
cp "$kept" "$work/whole.ranges"
check kept-again kept_ranges --calibrate "$calibration"
check kept-again-same cmp "$kept" "$work/whole.ranges"
check kept-is-ranges octet compile "$digits" -o "$work/ranged.so" --quiet --quantize int8 --ranges "$kept" --save-ranges "$work/other.ranges"
check kept-is-ranges-same cmp "$work/first.ranges" "$work/other.ranges"
rm "$kept"
interrupted() { ! ranges_of other --calibration-cache "$kept" --calibrate-cmd "cat $calibration/0*.npz; timeout 60 sh -c 'until test -s $kept; do sleep 0.1; done'; kill \$PPID; sleep 1" && ! seen 64 && [ -s "$kept" ]; }
check kept-interrupted interrupted
check kept-resumed kept_ranges --calibrate "$calibration"
check kept-resumed-same cmp "$kept" "$work/whole.ranges"
mkdir "$work/few" && cp "$calibration"/0*.npz "$work/few"
other_samples() { ranges_of few --calibration-cache "$kept" --calibrate "$work/few" 2> "$work/said" && grep -q 'made from other samples' "$work/said" && seen 10; }
check kept-other-samples other_samples
check kept-more-samples kept_ranges --calibrate "$calibration"
check kept-more-samples-same cmp "$kept" "$work/whole.ranges"
other_model() { ranges_of dim --calibration-cache "$kept" --calibrate "$calibration" --dim batch=1 2> "$work/said" && grep -q 'made from another model' "$work/said" && cmp "$work/first.ranges" "$work/dim.ranges"; }
check kept-other-model other_model
cp "$work/whole.ranges" "$kept"
edited() { sed -i 's/^f\t0\t[0-9.]*/f\t0\t6/' "$kept" && ranges_of edited --calibration-cache "$kept" --calibrate "$calibration" --method mse && grep -q '^f.0.6.means' "$work/edited.ranges" && grep -q '^f.0.6.means' "$kept"; }
check kept-edited edited

# ---- reports ----
report=$root/tests/cli/report.py
mkdir -p "$work/report"
report_of() { octet compile "$work/report/$1" -o "$work/report/$2.so" --quantize int8 --calibrate "$work/report/$3" --quiet --report "$work/report/$4"; }
report_json() { report_of digits.onnx d samples a.json && report_of digits.onnx e samples b.json && python3 "$report" same "$work/report/a.json" "$work/report/b.json" && python3 "$report" keys "$work/report/a.json" "$root/tests/cli/report.keys"; }
report_page() { report_of digits.onnx d samples d.html && python3 "$report" page "$work/report/d.html" 'digits.onnx' 'conv1' 'SQNR' 'Accuracy against latency' 'Activations and their ranges' '--quantize int8'; }
report_hostile() { report_of '<b>&"hostile".onnx' h hostile h.html && python3 "$report" page "$work/report/h.html" '<b>&"hostile".onnx' '</script><script>document.title="owned"</script>' 'a"b'"'"'c<d>'; }
report_without_samples() {
  octet compile "$digits" -o "$work/report/r.so" --quantize int8 --ranges "$root/samples/digits/digits.ranges" --quiet --report "$work/report/r.html" &&
    python3 "$report" page "$work/report/r.html" 'Nothing was measured' 'from a file of ranges'
}
report_budget() {
  octet compile "$digits" -o "$work/report/m.so" --quantize int8 --calibrate "$calibration" --max-loss 0.5% --quiet --report "$work/report/m.html" &&
    python3 "$report" page "$work/report/m.html" 'The budget' 'At most 0.5 % may be lost'
}
report_policy() { octet compile "$digits" -o "$work/report/p.so" --quantize bf16 --calibrate "$calibration" --quiet --report "$work/report/p.html" && python3 "$report" page "$work/report/p.html" 'bf16' 'difference of the policy' 'Outputs against float'; }
report_that_came() { # a model that is quantized already, measured against itself as it is written
  octet quantize "$digits" -o "$work/report/q.onnx" --ranges "$root/samples/digits/digits.ranges" --quiet &&
    octet compile "$work/report/q.onnx" -o "$work/report/q.so" --calibrate "$calibration" --report "$work/report/q.json" 2> "$work/says" &&
    grep -q 'came quantized: 3 contractions are integer, 0 have codes as weights, 0 stay float' "$work/says" &&
    python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); o = r["outputs"][0]["sqnr_db"]; sys.exit([(l["precision"], l["activation"]["type"], l["weights"]["type"]) for l in r["layers"]] != 3 * [("int8", "u8", "s8")] or (o is not None and o < 60))' "$work/report/q.json" &&
    octet compile "$work/report/q.onnx" -o "$work/report/q.so" --quiet --report "$work/report/q.html" && python3 "$report" page "$work/report/q.html" 'Integer contractions' 'as it came'
}
report_browser() { # NAME PAGE
  python3 "$report" browser "$2" > "$work/log" 2>&1
  case $? in
    0) ok "$1" ;;
    77) echo "$1 $(cat "$work/log")" ;;
    *) bad "$1" "$(tail -n 1 "$work/log")" ;;
  esac
}
cp "$digits" "$work/report/digits.onnx" && cp -r "$calibration" "$work/report/samples"
check report-model-written python3 "$report" model "$work/report"
mv "$work/report/hostile.onnx" "$work/report/<b>&\"hostile\".onnx"
check report-json report_json
check report-page report_page
check report-escapes report_hostile
check report-without-samples report_without_samples
check report-policy report_policy
check report-budget report_budget
check report-of-a-model-that-came-quantized report_that_came
report_browser report-in-a-browser "$work/report/d.html"
report_browser report-of-hostile-names-in-a-browser "$work/report/h.html"
refused report-of-no-kind 2 'a page is FILE.html' octet compile "$digits" -o n.so --quantize int8 --calibrate "$calibration" --report r.txt

# No undefined symbol that libc, libm or libpthread do not have: a program of nothing else links.
undefined_symbols() {
  local u
  echo 'int main(void) { return 0; }' > "$work/empty.c"
  nm -u "$1" | awk '{ print $NF }' | sed 's/@.*//' | grep -vE '^(_ITM_|__gmon_start__|__cxa_finalize|_GLOBAL_OFFSET_TABLE_|$)' | sort -u > "$work/undefined"
  u=$(sed 's/^/-Wl,-u,/' "$work/undefined" | tr '\n' ' ')
  # shellcheck disable=SC2086
  cc $u -Wl,--no-undefined "$work/empty.c" -o "$work/empty" -lm -lpthread
}
# Sections that are written to while the program runs: none that has bytes. What the loader fixes and then locks is no such section.
writable_sections() { ! readelf -SW "$1" | sed -n 's/^ *\[ *[0-9]*\] //p' | awk '$7 ~ /W/ && $1 !~ /^\.(data\.rel\.ro.*|dynamic|got|got\.plt|init_array|fini_array)$/ && $5 !~ /^0+$/' | grep .; }
writable_and_executable() { ! readelf -lW "$1" | grep -E '^ +[A-Z_]+ .* (RWE|WE) '; }
stack_is_data() { readelf -lW "$1" | grep -q 'GNU_STACK.* RW '; }
full_relro() { readelf -lW "$1" | grep -q GNU_RELRO && readelf -dW "$1" | grep -qE 'BIND_NOW|Flags:.*NOW'; }
no_paths() { ! strings -a "$1" | grep -E '^/(home|work|tmp|root|usr/src|build)|'"$root"'|'"$work"; }
needs_libc_alone() { ! readelf -dW "$1" | grep NEEDED | grep -vE 'lib(c|m|pthread)\.so|ld-linux'; }
exports_one() { test "$(nm -D --defined-only "$1" | awk '{ print $NF }' | tr '\n' ' ')" = "$2 "; }
globals_one() { test "$(nm -g --defined-only "$1" | awk 'NF == 3 { print $3 }' | tr '\n' ' ')" = "$2 "; }

for f in digits.so digits8.so; do
  check "$f-undefined" undefined_symbols $f
  check "$f-no-writable-data" writable_sections $f
  check "$f-no-w-and-x" writable_and_executable $f
  check "$f-stack" stack_is_data $f
  check "$f-relro" full_relro $f
  check "$f-no-paths" no_paths $f
  check "$f-needs" needs_libc_alone $f
  check "$f-exports" exports_one $f "${f%.so}_octet_api"
done
for f in digits digits8; do
  check "$f-no-w-and-x" writable_and_executable $f
  check "$f-stack" stack_is_data $f
  check "$f-relro" full_relro $f
  check "$f-needs" needs_libc_alone $f
done
check digits.o-undefined undefined_symbols digits.o
check digits.o-no-writable-data writable_sections digits.o
check digits.o-no-paths no_paths digits.o
check digits.o-globals globals_one digits.o digits_octet_api
check libdigits.a-undefined undefined_symbols libdigits.a
check libdigits.a-no-paths no_paths libdigits.a

# A C program linked with the object, one with the archive.
cat > use.c <<'C'
#include NAME_HEADER
#include <stdio.h>
#define JOIN(a, b) a##b
#define API(name) JOIN(name, _octet_api)
int main(void)
{
    const OctetApi *api = &API(MODEL);
    printf("%d %d %s %s\n", (int)api->inputs, (int)api->outputs, api->input[0].name, api->output[0].name);
    return api->inputs != 1 || api->outputs != 1;
}
C
uses() { cc -std=c11 -Wall -Wextra -Werror -I"$root/runtime/include" -I. "-DNAME_HEADER=\"$2.h\"" -DMODEL="$2" use.c "$1" -lm -lpthread -o use && ./use; }
check link-object uses digits.o digits
check link-archive uses libdigits.a libdigits
rm -f use use.c

# ---- equal bytes, equal results ----
mkdir "$work/a" "$work/b"
cp "$digits" "$work/a/digits.onnx"
cp "$digits" "$work/b/digits.onnx"
twice() {
  local out=$1
  shift
  (cd "$work/a" && octet compile digits.onnx -o "$out" --quiet --jobs 1 "$@") && (cd "$work/b" && octet compile "$work/b/digits.onnx" -o "$out" --quiet "$@") &&
    cmp "$work/a/$out" "$work/b/$out"
}
for kind in x.so x.o x.a x; do check "same-bytes-$kind" twice $kind; done
cached() {
  octet compile "$digits" -o c.so --quiet --cache "$work/kernels" && test -n "$(ls "$work/kernels")" && mv c.so c1.so && octet compile "$digits" -o c.so --quiet --cache "$work/kernels" &&
    cmp c.so c1.so && rm c.so c1.so && octet compile "$digits" -o c.so --quiet && mv c.so c1.so && octet compile "$digits" -o c.so --quiet --cache "$work/kernels" && cmp c.so c1.so && rm c.so c1.so c.h
}
check same-bytes-cache cached
check same-bytes-int8 twice y.so --quantize int8 --calibrate "$calibration"
check same-bytes-budget twice y.so --quantize int8 --calibrate "$calibration" --max-loss 0.002% --budget-times estimate

run_with() { octet run "$1" --input "$images" --output "$work/$2.npz" "${@:3}"; }
threads() { run_with "$1" one --threads 1 && run_with "$1" two --threads 2 && run_with "$1" three --threads 3 && python3 "$root/tests/cli/same.py" "$work/one.npz" "$work/two.npz" "$work/three.npz"; }
check threads-float threads digits.so
check threads-int8 threads digits8.so
# Every level that this machine has: integers the same bits, floats as the interpreter computes them.
usable=$(./digits --help | sed -n 's/^levels: //p' | sed -E 's/ *[a-z0-9]+ \(not here\)//g')
for level in $(./digits --help | sed -n 's/^levels: //p' | grep -oE '[a-z0-9]+ \(not here\)' | cut -d' ' -f1); do echo "skipped: $level, which this machine lacks"; done
levels_int8() {
  local files=()
  for level in $usable; do run_with digits8.so "$level" --isa "$level" || return 1; files+=("$work/$level.npz"); done
  python3 "$root/tests/cli/same.py" "${files[@]}"
}
levels_float() {
  local files=()
  octet run "$digits" --interp --input "$images" --output "$work/interp.npz" || return 1
  for level in $usable; do run_with digits.so "$level" --isa "$level" || return 1; files+=("$work/$level.npz"); done
  python3 "$root/tests/cli/close.py" 1e-5 "$work/interp.npz" "${files[@]}"
}
levels_differ() { test "$(octet bench digits.so --isa avx2 --threads 1 --runs 1 2>&1 | grep -c avx2)" = 1; }
check levels-usable grep -q portable <<< "$usable"
check levels-int8 levels_int8
check levels-float levels_float
if grep -q avx2 <<< "$usable"; then check levels-cap levels_differ; else echo "skipped: levels-cap needs avx2"; fi
level_executable() { ./digits --isa "${usable%% *}" --input "$images" --output "$work/exe.npz" && run_with digits.so so --isa "${usable%% *}" && python3 "$root/tests/cli/same.py" "$work/so.npz" "$work/exe.npz"; }
check levels-executable level_executable
# Narrow storage: near the float results on every level, whatever dot products it has, and the same on any number of threads.
near() {
  run_with digits.so float || return 1
  for type in bf16 fp16; do
    for level in $usable; do
      run_with "$work/digits-$type.so" "$type-$level" --isa "$level" && python3 "$root/tests/cli/close.py" 0.02 "$work/float.npz" "$work/$type-$level.npz" || return 1
    done
    threads "$work/digits-$type.so" || return 1
  done
}
check narrow-storage near
# Weights of 8 and 4 bits under float activations, on every level.
codes() {
  local flags
  for flags in int8-weights fp8 "fp8 --group 0" "fp8-e5m2 --group 64" int4 "int4 --symmetric" "int4 --group 0" "int4 --group 64 --calibrate $calibration"; do
    octet compile "$digits" -o "$work/codes.so" --quiet --quantize $flags || return 1
    for level in $usable; do
      run_with "$work/codes.so" "codes-$level" --isa "$level" && python3 "$root/tests/cli/close.py" 0.2 "$work/float.npz" "$work/codes-$level.npz" || return 1
    done
  done
  octet compile "$digits" -o "$work/codes.so" --quantize int4 --report "$work/codes.json" 2> "$work/says" && grep -q 'contractions are int4' "$work/says" &&
    grep -q '"groups of 32"' "$work/codes.json" &&
    octet compile "$digits" -o "$work/codes.so" --quiet --quantize int8-weights --report "$work/codes.json" &&
    ! grep -q '"unfused"' "$work/codes.json" && # these codes are ours, and meant to stand beside floats
    octet compile "$digits" -o "$work/codes.so" --quiet --quantize int4 --calibrate "$calibration" --report "$work/codes.json" &&
    python3 -c 'import json, sys
layers = [l for l in json.load(open(sys.argv[1]))["layers"] if l["precision"] == "weights"]
assert layers and all(10 < l[k] < 99 for l in layers for k in ("sqnr_db", "sqnr_db_alone")) and layers[0]["weights"]["method"] == "gptq", layers' "$work/codes.json"
}
check codes-near codes
# Products of bf16 planes: nearer with every plane, and where tiles are not promised exact, which the summary says.
products() {
  run_with digits.so float && octet compile "$digits" -o "$work/products.so" --fp32 bf16 --quiet && run_with "$work/products.so" products &&
    python3 "$root/tests/cli/close.py" 0.02 "$work/float.npz" "$work/products.npz" && threads "$work/products.so"
}
check fp32-bf16 products
error_of() { octet compile "$digits" -o "$work/planes.so" --target amx --quiet --report "$work/planes.json" "$@" && python3 -c 'import json, sys; e = json.load(open(sys.argv[1]))["error"]; print(e["relative"] * 1e9 // 1, e["inputs"])' "$work/planes.json"; }
planes() {
  local one two three
  one=$(error_of --fp32 bf16) && two=$(error_of --fp32 bf16x2) && three=$(error_of --fp32 bf16x3 --calibrate "$calibration") || return 1
  [[ $one == *random && $two == *random && $three == *samples ]] || return 1
  python3 -c 'import sys; a, b, c = map(float, sys.argv[1:]); sys.exit(not (1e5 < a < 2e7 and 1e2 < b < 1e5 and 0 < c < 3e3))' "${one% *}" "${two% *}" "${three% *}"
}
check fp32-planes planes
exact_says() { octet compile "$digits" -o "$work/exact.so" --fp32 bf16x2 2> "$work/says" && grep -q 'is exact: only tiles' "$work/says"; }
check fp32-exact-says exact_says
says_random() { octet compile "$digits" -o "$work/says.so" --quantize bf16 2> "$work/says" && grep -q 'stored as bf16; outputs differ .* on RANDOM INPUTS' "$work/says"; }
check narrow-storage-says says_random
# Convolutions by minimal filtering follow the policy: their products are f32, bf16 or none, and the summary says how far off they are.
filtered() {
  local limit=$1; shift
  octet compile "$work/bad/wide.onnx" -o "$work/wide.so" "$@" 2> "$work/says" || return 1
  python3 -c 'import re, sys; e = re.findall("1 of 1 .* by Winograd.* ([0-9.e-]+)$", sys.stdin.read(), re.M); sys.exit(not (len(e) == 1 and float(sys.argv[1]) / 100 < float(e[0]) < float(sys.argv[1])))' "$limit" < "$work/says"
}
direct() { octet compile "$work/bad/wide.onnx" -o "$work/wide.so" "$@" 2> "$work/says" && ! grep Winograd "$work/says"; }
outputs_say() { python3 -c 'import re, sys; e = re.findall("float32 by ([0-9.e-]+),", sys.stdin.read()); sys.exit(not (len(e) == 1 and 1e-4 < float(e[0]) < 2e-2))' < "$work/says"; }
check filtered-exact filtered 1e-5
check filtered-bf16 filtered 2e-2 --quantize bf16 --target avx512bf16
check filtered-products filtered 2e-2 --fp32 bf16 --target avx512bf16
check filtered-outputs outputs_say
check filtered-kept filtered 1e-5 --quantize bf16 --keep '^y$' --target avx512bf16
check direct-off direct --quantize bf16 --winograd off
check direct-fp16 direct --quantize fp16
check direct-tiles direct --quantize bf16 --target amx
check direct-some-tiles direct --quantize bf16
check narrow-storage-kept octet compile "$digits" -o "$work/kept.so" --quantize bf16 --keep conv2 --quiet
# A budget that all of INT8 leaves and some of it keeps, on images that the compiler never saw.
within() { octet compile "$digits" -o "$work/$1.so" --quiet --quantize int8 --calibrate "$calibration" --report "$work/$1.json" "${@:2}"; }
budget() {
  within all && within kept --max-loss 0.002% --weights rtn && run_with digits.so float && run_with "$work/all.so" all && run_with "$work/kept.so" kept &&
    python3 "$root/tests/cli/budget.py" 0.00002 "$work/kept.json" "$work/float.npz" "$work/all.npz" "$work/kept.npz"
}
check budget budget
regions_float() { within "$@" && python3 -c 'import json, sys; b = json.load(open(sys.argv[1]))["budget"]; print(sum(r["precision"] == "float" for r in b["regions"]), b["metric"])' "$work/$1.json"; }
budget_wide() { test "$(regions_float wide --max-loss 5%)" = "0 kl and answers of 'logits'"; }
check budget-wide budget_wide
# Most samples tell what outputs are, not the first.
budget_votes() { cp "$calibration"/0[1-9].npz "$work/bad/undecided" && test "$(regions_float votes --max-loss 5% --calibrate "$work/bad/undecided")" = "0 kl and answers of 'logits'"; }
check budget-votes budget_votes
budget_rounds() { python3 -c 'import json, sys
of = lambda name: {l["weights"]["method"] for l in json.load(open(f"{sys.argv[1]}/{name}.json"))["layers"] if l["precision"] == "int8"}
assert of("all") == {"rtn"} and "gptq" in of("wide"), (of("all"), of("wide"))' "$work"; }
check budget-rounds-by-gptq budget_rounds
# Without a report, too, the summary says how far outputs are from float, on four samples, whatever the artefact is.
told() {
  mkdir -p "$work/four" && cp "$calibration"/0[0-3]*.npz "$work/four" && octet compile "$digits" -o "$work/$1" --quantize int8 --calibrate "$work/four" --report "$work/told.json" --quiet &&
    octet compile "$digits" -o "$work/$1" --quantize int8 --calibrate "$work/four" 2> "$work/said" && python3 -c 'import json, re, sys
said = re.search(r"  output logits: SQNR (.*) dB on 4 samples, at least (.*) \(sample (\d)\)", open(sys.argv[1]).read())
o = json.load(open(sys.argv[2]))["outputs"][0]
assert said.groups() == ("%.1f" % o["sqnr_db"], "%.1f" % o["sqnr_db_lowest"], str(o["lowest_sample"])), (said, o)' "$work/said" "$work/told.json"
}
check outputs-told told told.so
check outputs-told-of-a-program told told
untold() { octet compile "$digits" -o "$work/told.so" --quantize int8 "$@" 2> "$work/said" && ! grep -q '  output' "$work/said"; }
check outputs-untold-quietly untold --calibrate "$calibration" --quiet
check outputs-untold-of-random-numbers untold --calibrate random:4
budget_says() { octet compile "$digits" -o "$work/says.so" --quantize int8 --calibrate "$calibration" --max-loss 5% 2> "$work/says" && grep -q "  kl of 'logits' .* (below .*%), answers of 'logits' .* on all samples$" "$work/says"; }
check budget-says-what-was-judged-by-which-samples budget_says
# A model that says what comes next is held to perplexity instead of answers, on text that it knows; on other text it is one of scores.
metric_of() { octet compile "$work/bad/counting.onnx" -o "$work/counting.so" --quiet --quantize int8 --calibrate "$work/bad/counting$1" --max-loss 5% --report "$work/counting.json" && python3 -c 'import json, sys; b = json.load(open(sys.argv[1]))["budget"]; print(b["metric"], *(c["rows"] // b["judging_samples"] for c in b["conditions"]))' "$work/counting.json"; }
budget_language() { test "$(metric_of +1)" = "kl and perplexity of 'logits' 48 48" && test "$(metric_of -1)" = "kl and answers of 'logits' 48 96"; }
check budget-language budget_language
budget_judges_every_row() { test "$(metric_of +long)" = "kl and perplexity of 'logits' 70000 70000"; }
check budget-judges-every-row budget_judges_every_row
# Scores that a mask rules out in both programs are not compared, and the others are: no figure is empty, nor 0 for want of a number.
masked() {
  octet compile "$work/bad/masked.onnx" -o "$work/masked.so" --calibrate "$work/bad/uneven" --report "$work/masked.json" --quiet "${@:2}" &&
    python3 -c 'import json, sys
r = json.load(open(sys.argv[1]))
assert 20 < r["outputs"][0]["sqnr_db"] < 90 and 0.99 < r["outputs"][0]["cosine"] < 1, r["outputs"]
assert eval(sys.argv[2]), r' "$work/masked.json" "$1"
}
check masked-int8 masked 'all(c["loss"] > 1e-9 for c in r["budget"]["conditions"])' --quantize int8 --max-loss 5%
check masked-bf16 masked '0 < r["error"]["relative"] < 0.01 and r["error"]["largest"] > 0' --quantize bf16
# Samples that judge lose a quarter or four times of what those of the search do: the choice is close to the budget all the same.
budget_close() {
  octet compile "$work/bad/parallel.onnx" -o "$work/close.so" --quantize int8 --calibrate "$work/bad/$1" --max-loss $2 --metric sqnr --budget-times estimate --wide off --weights rtn --report "$work/close.json" --quiet &&
    python3 -c 'import json, sys
b = json.load(open(sys.argv[1]))["budget"]
left = sum(r["precision"] == "int8" for r in b["regions"])
assert b["looks"] <= 8 and left == int(sys.argv[2]) and b["bound"] <= b["max_loss"], b' "$work/close.json" $3
}
check budget-close-to-harder budget_close harder 0.006% 3
check budget-close-to-easier budget_close easier 0.006% 4
budget_labels() { test "$(regions_float labels --max-loss 5% --metric top1 --labels "$work/bad/labels64.npy")" = "0 top1 of 'logits' with labels"; }
check budget-labels budget_labels
# A program that is content with nothing but the third artefact it sees, and counts them.
judge() { cat > "$work/judge.sh" <<SH
test -s "\$1" || exit 1
n=\$(cat "$work/judged" 2> /dev/null || echo 0)
echo \$((n + 1)) > "$work/judged"
case \$n in 0|2) echo 100 ;; *) echo 90 ;; esac
SH
}
budget_command() {
  rm -f "$work/judged"; judge && within judged --max-loss 1% --metric-cmd "sh $work/judge.sh" && test "$(cat "$work/judged")" = 3 &&
    grep -q '"figure":\s*100' "$work/judged.json" && grep -q '"float_figure":\s*100' "$work/judged.json"
}
check budget-command budget_command
executable() { run_with digits8.so so && ./digits8 --input "$images" --output "$work/exe.npz" && python3 "$root/tests/cli/same.py" "$work/so.npz" "$work/exe.npz"; }
check executable-agrees executable
check selftest ./digits --selftest
check executable-help ./digits --help
check executable-bench ./digits --bench
profile() { octet compile "$digits" -o "$work/direct.so" --winograd off --quiet && octet bench "$work/direct.so" --threads 1 --runs 20 --profile --sort time --json > "$work/profile.json" && python3 "$root/tests/cli/profile.py" "$work/profile.json"; }
check profile-json profile
profile_says() { octet bench digits8.so --threads 1 --runs 20 --profile | grep -E "Gop/s .*% +k[0-9]+ +contraction u8 i8 64x32x1[0-9]+: .*'conv2'" > /dev/null; }
check profile-table profile_says
names() { nm "$1" | grep -E " [tT] digits8?_k[0-9]+_Conv_conv2_avx512(vnni)?$" > /dev/null; }
for f in digits.so digits.o digits8.so digits digits8; do check "names-$f" names $f; done

# ---- the quantized model as ONNX ----
# Where nothing merges constants (--disable-pass scale) both ways are the same integers and the same floats, to the bit.
ranges=$root/samples/digits/digits.ranges
exported() {
  octet quantize "$digits" -o "$work/q.onnx" --calibrate "$calibration" --save-ranges "$work/q.ranges" --quiet &&
    octet quantize "$digits" -o "$work/q.onnx" --ranges "$work/q.ranges" --quiet && octet compile "$work/q.onnx" -o "$work/q.so" --quiet &&
    octet compile "$digits" -o "$work/direct.so" --quiet --quantize int8 --ranges "$work/q.ranges" --disable-pass scale &&
    run_with "$work/q.so" q && run_with "$work/direct.so" direct && python3 "$root/tests/cli/same.py" "$work/direct.npz" "$work/q.npz"
}
check export-same-results exported
dots() { octet compile "$@" --stop-after=expand-integer | grep -cE 'octet\.(Conv|MatMul)Dot'; }
export_dots() { test "$(dots "$work/q.onnx")" = 3 && test "$(dots "$digits" --quantize int8 --ranges "$work/q.ranges")" = 3; }
check export-same-contractions export_dots
export_stdout() { octet quantize "$digits" -o - --ranges "$work/q.ranges" --quiet > "$work/stdout.onnx" && cmp "$work/q.onnx" "$work/stdout.onnx"; }
check export-same-bytes export_stdout
outside() {
  mkdir -p "$work/outside" && octet quantize "$digits" -o "$work/outside/m.onnx" --ranges "$work/q.ranges" --quiet --external-data && test -s "$work/outside/m.onnx.data" &&
    octet compile "$work/outside/m.onnx" -o "$work/outside/m.so" --quiet && run_with "$work/outside/m.so" outside && python3 "$root/tests/cli/same.py" "$work/q.npz" "$work/outside.npz"
}
check export-external-data outside
check export-in-onnx-runtime python3 "$root/tests/onnx/exported.py" "$digits" "$work/q.onnx" "$images" "$root/samples/digits/labels.npy"
# Values of 16 bits: the scales of the weights go along the last axis, counted from the end, and the integers are the artefact's.
export_wide() {
  local uneven="$work/bad/uneven.onnx" one="$work/bad/uneven/0.npz" flags="--ranges $work/uw.ranges --smooth off"
  octet quantize "$uneven" -o "$work/uw.onnx" --calibrate "$work/bad/uneven" --smooth off --save-ranges "$work/uw.ranges" --quiet &&
    octet compile "$work/uw.onnx" --stop-after=import | grep -q 'DequantizeLinear(.*{axis=-1} : f32\[64,64\]' &&
    octet compile "$work/uw.onnx" -o "$work/uw.so" --int16 integer --quiet && octet compile "$uneven" -o "$work/ud.so" --quantize int8 $flags --quiet &&
    octet run "$work/uw.so" --input "$one" --output "$work/uw.npz" && octet run "$work/ud.so" --input "$one" --output "$work/ud.npz" &&
    python3 "$root/tests/cli/close.py" 1e-6 "$work/uw.npz" "$work/ud.npz"
}
check export-wide export_wide
check export-techniques python3 "$root/tests/onnx/techniques.py"
check joins-in-onnx-runtime python3 "$root/tests/onnx/joins.py"
check random-models python3 "$root/tests/onnx/fuzz.py" 0 40 --levels "$usable"
check attention-in-onnx-runtime python3 "$root/tests/onnx/attention.py" 0 112 --levels "$usable"
mutated() { (cd "$root" && . tests/onnx/cases.sh && ONNX_CASES="$cases" python3 tests/onnx/mutate.py 0 150 --levels "$usable"); }
check mutated-models mutated
check regions-in-onnx-runtime python3 "$root/tests/onnx/regions.py" 0 40 --levels "$usable"
export_int4() {
  octet quantize "$digits" -o "$work/q4.onnx" --quantize int4 --group 16 --quiet && grep -aq block_size "$work/q4.onnx" && octet compile "$work/q4.onnx" -o "$work/q4.so" --quiet &&
    run_with "$work/q4.so" q4 && python3 "$root/tests/onnx/exported.py" "$digits" "$work/q4.onnx" "$images" "$root/samples/digits/labels.npy"
}
check export-int4 export_int4
# The same weights in the operator that engines have kernels for: the same numbers here, and ONNX Runtime takes it.
export_nbits() {
  octet quantize "$digits" -o "$work/qn.onnx" --quantize int4 --group 16 --form matmulnbits --quiet && grep -aq MatMulNBits "$work/qn.onnx" && ! grep -aq MatMulNBits "$work/q4.onnx" &&
    octet compile "$work/qn.onnx" -o "$work/qn.so" --quiet && run_with "$work/qn.so" qn && python3 "$root/tests/cli/same.py" "$work/q4.npz" "$work/qn.npz" &&
    python3 "$root/tests/onnx/exported.py" "$digits" "$work/qn.onnx" "$images" "$root/samples/digits/labels.npy"
}
check export-matmulnbits export_nbits
# Codes that are multiplied, by default under int4, and where a model says so: other numbers than of float values, and the same digits.
values_int8() {
  octet compile "$digits" -o "$work/qv.so" --quantize int4 --group 16 --quiet && run_with "$work/qv.so" qv &&
    octet compile "$digits" -o "$work/qw.so" --quantize int4 --group 16 --values float --quiet && run_with "$work/qw.so" qw && ! python3 "$root/tests/cli/same.py" "$work/qv.npz" "$work/qw.npz" &&
    octet quantize "$digits" -o "$work/qv.onnx" --quantize int4 --group 16 --values int8 --form matmulnbits --quiet && grep -aq accuracy_level "$work/qv.onnx" &&
    octet compile "$work/qv.onnx" -o "$work/qx.so" --quiet && run_with "$work/qx.so" qx && ! python3 "$root/tests/cli/same.py" "$work/qn.npz" "$work/qx.npz" &&
    octet compile "$work/qv.onnx" -o "$work/qx.so" --values float --quiet && run_with "$work/qx.so" qx && python3 "$root/tests/cli/same.py" "$work/qn.npz" "$work/qx.npz" &&
    python3 "$root/tests/onnx/exported.py" "$digits" "$work/qv.onnx" "$images" "$root/samples/digits/labels.npy"
}
check values-int8 values_int8
refused values-int8-form 2 'add --form matmulnbits' octet quantize "$digits" -o n.onnx --quantize int4 --values int8
refused export-matmulnbits-int8 2 'needs --quantize int4' octet quantize "$digits" -o n.onnx --form matmulnbits --ranges "$ranges"
refused export-matmulnbits-group 2 'with groups of 16' octet quantize "$digits" -o n.onnx --form matmulnbits --quantize int4 --group 48
# A budget that two of three contractions do not keep: the file has the integers of the artefact, and the report both programs.
export_budget() {
  local flags="--calibrate $calibration --max-loss 0.002% --budget-times estimate --weights rtn"
  octet quantize "$digits" -o "$work/qb.onnx" $flags --report "$work/qb.json" --quiet && n=$(dots "$work/qb.onnx") && test "$n" -lt 3 &&
    test "$n" = "$(dots "$digits" --quantize int8 $flags)" &&
    python3 -c 'import json, sys; r = json.load(open(sys.argv[1])); assert r["budget"]["looks"] > 1 and r["outputs"][0]["sqnr_db"] > 40 and r["run"]' "$work/qb.json"
}
check export-budget export_budget
# A layer is known by what it multiplies, not by where it stands: those of a function that is called twice stand in the same place.
export_budget_twice() {
  local model="$work/bad/called.onnx" flags="--calibrate $work/bad/uneven --max-loss 0.012% --metric sqnr --budget-times estimate --quiet"
  octet quantize "$model" -o "$work/qt.onnx" $flags && octet compile "$work/qt.onnx" -o "$work/qt.so" --quiet && octet compile "$model" -o "$work/dt.so" --quantize int8 $flags --disable-pass scale &&
    test "$(dots "$work/qt.onnx") $(dots "$model" --quantize int8 $flags)" = "1 1" &&
    for p in qt dt; do octet run "$work/$p.so" --input "$work/bad/uneven/0.npz" --output "$work/$p.npz" || return 1; done && python3 "$root/tests/cli/close.py" 1e-6 "$work/qt.npz" "$work/dt.npz"
}
check export-budget-twice export_budget_twice
refused export-budget-int4 2 'needs --quantize int8' octet quantize "$digits" -o n.onnx --quantize int4 --max-loss 1%
refused export-report-of-no-kind 2 'a page is FILE.html' octet quantize "$digits" -o n.onnx --ranges "$ranges" --report r.txt
refused export-nowhere 2 'where to' octet quantize "$digits" --ranges "$ranges"
refused export-no-ranges 2 'needs --calibrate' octet quantize "$digits" -o n.onnx
refused export-narrow 2 'not a form of ONNX' octet quantize "$digits" -o n.onnx --quantize bf16
refused export-data-to-stdout 2 'needs a file' octet quantize "$digits" -o - --ranges "$ranges" --external-data
refused export-over-itself 2 'would overwrite' octet quantize "$digits" -o "$digits" --ranges "$ranges"
refused export-folder-missing 1 'cannot write' octet quantize "$digits" -o nowhere/n.onnx --ranges "$ranges" --quiet

# ---- exit codes ----
check help octet --help
check version octet --version
for c in compile quantize run verify inspect bench; do check "help-$c" octet $c --help; done
refused usage-nothing 2 'usage: octet' octet
refused usage-command 2 "unknown command 'frobnicate'" octet frobnicate
refused usage-option 2 "unknown option '--frobnicate'" octet compile "$digits" -o n.so --frobnicate
refused usage-value 2 'unknown value' octet compile "$digits" -o n.so --method luck
refused usage-calibrate 2 'needs --calibrate or --ranges' octet compile "$digits" -o n.so --quantize int8
refused usage-group 2 'a multiple of 16' octet compile "$digits" -o n.so --quantize int4 --group 40
refused usage-group-alone 2 'needs --quantize int8-weights or int4 or fp8 or fp8-e5m2' octet compile "$digits" -o n.so --group 32
refused usage-symmetric-float 2 'needs --quantize int8-weights or int4' octet compile "$digits" -o n.so --quantize fp8 --symmetric
refused usage-rotate-float 2 '--rotate on needs --quantize int8' octet compile "$digits" -o n.so --quantize bf16 --rotate on
refused usage-equalize-float 2 '--equalize on needs --quantize int8' octet compile "$digits" -o n.so --equalize on
refused usage-symmetric 2 'not both' octet compile "$digits" -o n.so --quantize int4 --symmetric --asymmetric
refused usage-fp32-narrow 2 'leaves none' octet compile "$digits" -o n.so --quantize bf16 --fp32 bf16
refused usage-narrow-ranges 2 'needs --quantize int8' octet compile "$digits" -o n.so --quantize bf16 --ranges r.txt
refused usage-keep 2 'not a regular expression' octet compile "$digits" -o n.so --quantize bf16 --keep '('
refused usage-max-loss 2 'as in 0.5%' octet compile "$digits" -o n.so --quantize int8 --calibrate "$calibration" --max-loss 0.5
refused usage-max-loss-alone 2 'needs --quantize int8 and samples' octet compile "$digits" -o n.so --max-loss 0.5%
refused usage-metric 2 'unknown metric' octet compile "$digits" -o n.so --quantize int8 --calibrate "$calibration" --max-loss 1% --metric luck
refused usage-metric-alone 2 '--metric needs --max-loss' octet compile "$digits" -o n.so --quantize int8 --calibrate "$calibration" --metric kl
refused usage-labels 2 'needs --metric top1' octet compile "$digits" -o n.so --quantize int8 --calibrate "$calibration" --max-loss 1% --labels l.npy
refused usage-standard-output 2 'cannot go to standard output' octet compile "$digits" -o -
memory() { head -c 600M /dev/zero | (ulimit -v 1000000; octet inspect -); }
memory > /dev/null 2> "$work/stderr"
rc=$?
if [ $rc = 70 ] && grep -q memory "$work/stderr"; then ok out-of-memory-is-70; else bad out-of-memory-is-70 "code $rc: $(head -n 1 "$work/stderr")"; fi

# ---- bad models ----
b=$work/bad
for percent in 1 10 50 90 99; do refused "truncated-$percent" 1 "cut$percent.onnx: error: " octet compile "$b/cut$percent.onnx" -o n.so; done
refused no-file 1 'No such file' octet compile "$b/none.onnx" -o n.so
refused a-folder 1 'cannot read .*directory' octet compile "$b" -o n.so
refused not-onnx 1 'bytes.onnx: error: not a valid ONNX file' octet compile "$b/bytes.onnx" -o n.so
refused a-program 1 'error: ' octet compile /bin/sh -o n.so
refused over-deep 1 'deep' octet compile "$b/deep.onnx" -o n.so
refused cyclic 1 'cycle' octet compile "$root/tests/data/cycle.onnx" -o n.so
refused mistyped 1 "attribute 'axis' is a float, expected an integer" octet compile "$root/tests/data/attributes.onnx" -o n.so
refused unknown-operator 1 'operator is not supported' octet compile "$root/tests/data/blockers.onnx" -o n.so
refused newer-opset 1 'opset' octet compile "$b/newer.onnx" -o n.so
refused external-missing 1 "nowhere.bin" octet compile "$b/missing.onnx" -o n.so
refused external-above 1 "model's folder" octet compile "$b/outside.onnx" -o n.so
refused external-absolute 1 'absolute path' octet compile "$b/absolute.onnx" -o n.so
refused external-link 1 'symbolic links are not followed' octet compile "$b/linked.onnx" -o n.so
refused external-short 1 'short.onnx: error: ' octet compile "$b/short.onnx" -o n.so
refused external-past-the-end 1 'past.onnx: error: ' octet compile "$b/past.onnx" -o n.so
refused huge-weights 1 'huge.onnx: error: ' octet compile "$b/huge.onnx" -o n.so
refused memory-limit 1 'memory' octet compile "$digits" -o n.so --max-memory 1K

# ---- bad calibration ----
quantize() { echo octet compile "$digits" -o n.so --quiet --quantize int8 --calibrate "$1"; }
# shellcheck disable=SC2046
{
  refused calibrate-nowhere 1 'No such file' $(quantize "$b/c-nowhere")
  refused calibrate-none 1 'no .npz or .npy file' $(quantize "$b/c-none")
  refused calibrate-name 1 "no array named 'image'" $(quantize "$b/c-name")
  refused calibrate-more 1 "'label' is no input" $(quantize "$b/c-more")
  refused calibrate-rank 1 'the model expects f32\[' $(quantize "$b/c-rank")
  refused calibrate-size 1 'is f32\[1,1,9,8\], the model expects' $(quantize "$b/c-size")
  refused calibrate-type 1 'is i64\[1,1,8,8\], the model expects' $(quantize "$b/c-type")
  refused calibrate-nan 1 'holds NaN' $(quantize "$b/c-nan")
  refused calibrate-short 1 '0.npz' $(quantize "$b/c-short")
  refused calibrate-text 1 '0.npz' $(quantize "$b/c-text")
  refused calibrate-all-of-it 1 "'label' is no input" $(quantize "$b/c-many")
  refused calibrate-all-at-once 1 "is i64\[1,1,8,8\], the model expects" $(quantize "$b/c-many")
  refused calibrate-misfit 1 'with .*branches/misfit.npz' octet compile "$work/branches/branches.onnx" -o n.so --quantize int8 --calibrate "$work/branches/misfit.npz"
  refused calibrate-random-misfit 1 'with random sample 0, whose free sizes are 1 (--dim)' octet compile "$work/branches/branches.onnx" -o n.so --quantize int8 --calibrate random:1
  refused calibrate-random-none 1 'expected random:N' $(quantize random:0)
}
by_command() { octet compile "$digits" -o n.so --quiet --quantize int8 --calibrate-cmd "$1"; }
export -f by_command
export digits
refused command-fails 1 'failed with status 3 after 64 samples' bash -c "by_command 'cat $calibration/*.npz; exit 3'"
refused command-dies 1 'killed by signal 9 after 64 samples' bash -c "by_command 'cat $calibration/*.npz; kill -9 \$\$'"
refused command-garbage 1 'sample 0: not an .npz file' bash -c "by_command 'yes'"
refused command-text-after 1 'sample 64: not an .npz file' bash -c "by_command 'cat $calibration/*.npz; echo done'"
refused command-cut 1 'sample 3: the output ends inside it' bash -c "by_command 'cat $calibration/*.npz | head -c 2000'"
refused command-silent 1 'wrote no samples' bash -c 'by_command true'
refused command-unknown 1 'failed with status 127' bash -c 'by_command no-such-program'
refused command-and-files 2 'not from both' octet compile "$digits" -o n.so --quantize int8 --calibrate "$calibration" --calibrate-cmd true
budget_of() { echo octet compile "$digits" -o n.so --quiet --quantize int8 --calibrate "$calibration" --max-loss 1%; }
refused budget-of-no-number 1 "output 'y' of the float model has no number" octet compile "$work/bad/ruled_out.onnx" -o n.so --quiet --quantize int8 --calibrate "$work/bad/uneven" --max-loss 1%
refused budget-random 1 'what random numbers lose' octet compile "$digits" -o n.so --quantize int8 --calibrate random:4 --max-loss 1%
# shellcheck disable=SC2046
{
  refused budget-command-silent 1 'expected one number' $(budget_of) --metric-cmd true
  refused budget-command-fails 1 'ended with code 1' $(budget_of) --metric-cmd false
  refused budget-perplexity 1 'needs a row for every element of an integer input' $(budget_of) --metric perplexity
  refused budget-labels-few 1 '3 labels, but the samples have 64 rows' $(budget_of) --metric top1 --labels "$b/labels3.npy"
  refused budget-labels-float 1 'expected integers' $(budget_of) --metric top1 --labels "$b/floats.npy"
}
refused ranges-missing 1 'No such file' octet compile "$digits" -o n.so --quantize int8 --ranges "$b/none.txt"
refused ranges-malformed 1 'ranges-bad.txt:2: expected NAME' octet compile "$digits" -o n.so --quantize int8 --ranges "$b/ranges-bad.txt"

refused kept-ranges-alone 1 'without statistics: it is for --ranges' octet compile "$digits" -o n.so --quantize int8 --calibrate "$calibration" --calibration-cache "$root/samples/digits/digits.ranges"
refused kept-no-samples 2 'needs the samples it was made from' octet compile "$digits" -o n.so --quantize int8 --ranges "$b/none.txt" --calibration-cache "$b/none.txt"

# ---- output that cannot be written ----
refused cache-no-folder 1 '--cache nowhere/kernels: cannot be made' octet compile "$digits" -o n.so --cache nowhere/kernels
refused cache-a-file 1 'not a folder that can be written to' octet compile "$digits" -o n.so --cache "$digits"
refused output-folder-missing 1 'cannot write nowhere/n.so: No such file' octet compile "$digits" -o nowhere/n.so
mkdir "$work/taken.so"
refused output-is-a-folder 1 'cannot write .*taken.so' octet compile "$digits" -o "$work/taken.so"
check output-is-a-folder-leaves-nothing test -z "$(ls "$work" | grep -E 'taken\.(h|so\.)')"
if [ "$(id -u)" != 0 ]; then
  mkdir "$work/locked" && chmod 500 "$work/locked"
  refused output-folder-locked 1 'Permission denied' octet compile "$digits" -o "$work/locked/n.so"
fi
# A disk that is full: no file may grow over 16 KB.
full=$work/full.sh
printf '#!/bin/bash\ntrap "" XFSZ\nulimit -f 16\nexec "$@"\n' > "$full"
for kind in n.so n.o n.a n; do refused "full-disk-$kind" 1 'cannot write\|linking' bash "$full" octet compile "$digits" -o $kind; done
refused full-disk-model 1 'cannot write n.onnx' bash "$full" octet quantize "$digits" -o n.onnx --ranges "$ranges" --quiet
refused full-disk-text 1 'cannot write text.ll' bash "$full" octet compile "$digits" -o text.ll --emit llvm
refused full-device-run 1 'cannot write\|No space' octet run digits.so --input "$images" --output /dev/full
refused full-device-stdout 1 'No space\|standard output' bash -c 'exec octet compile "$1" --emit kernel > /dev/full' full "$digits"
mkdir "$work/bin" && ln -s "$octet" "$work/bin/octet"
refused no-linker 1 'none of these programs is installed' env PATH="$work/bin" octet compile "$digits" -o n.so
printf '#!/bin/sh\necho the linker is unwell >&2\nexit 1\n' > "$work/bin/cc"
chmod +x "$work/bin/cc"
refused linker-fails 1 'the linker is unwell' env PATH="$work/bin:/usr/bin:/bin" octet compile "$digits" -o n.so

# An artefact that is there stays as it was when its replacement fails.
cp digits.so "$work/kept.so"
refused keeps-the-old 1 'unwell' env PATH="$work/bin:/usr/bin:/bin" octet compile "$digits" -o digits.so
check kept-the-old cmp digits.so "$work/kept.so"

# ---- running ----
bench_sizes() { octet bench digits.so --dim "$1" --runs 1 --threads 1 > "$work/sizes" 2>&1 && ! grep 'is 1 (--dim)' "$work/sizes"; }
check bench-dim bench_sizes batch=3
check bench-dim-of-axis bench_sizes image:0=3
# What no size says, how much memory a run needs, its first run finds out.
check bench-of-data-sizes octet bench "$root/tests/data/nonzero.onnx" --dim N=100 --runs 1
refused bench-dim-unknown 1 '--dim height: no input' octet bench digits.so --dim height=3
refused bench-dim-wrong 2 'expected NAME=VALUE' octet bench digits.so --dim batch
refused run-no-input 1 'image' octet run digits.so --output r.npz
refused run-wrong-name 1 "no input 'picture'" octet run digits.so --input "$b/c-name/0.npz" --output r.npz
refused run-wrong-type 1 'type i64\|is i64' octet run digits.so --input "$b/c-type/0.npz" --output r.npz
refused run-wrong-size 1 'image' octet run digits.so --input "$b/c-size/0.npz" --output r.npz
cc -shared -x c /dev/null -o "$work/empty.so"
refused run-no-artefact 1 'not a compiled model' octet run "$work/empty.so" --input "$images" --output r.npz
refused run-no-level 1 '--isa z80: the artefact has no such level; what it has and this machine runs: portable' octet run digits.so --isa z80 --input "$images" --output r.npz
refused executable-no-level 2 '--isa z80: no such level' ./digits --isa z80 --bench
refused interp-no-level 1 'runs none' octet run "$digits" --interp --isa avx2 --input "$images" --output r.npz
case " $usable " in *" amx "*) ;; *) refused run-lacks-level 1 'this machine lacks these instructions' octet run digits.so --isa amx --input "$images" --output r.npz ;; esac
refused executable-usage 2 'error' ./digits --frobnicate
refused executable-no-file 1 'error' ./digits --input none.npz --output r.npz

echo "$passed passed, $failed failed"
[ $failed = 0 ]
