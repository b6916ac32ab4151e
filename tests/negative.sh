# What the scripts of negative controls share. Bundles and engines that are wrong on purpose must FAIL (exit 1), and by the
# checks that are named: those that run the model, since the static audit of the weights is left out here. Each kind of
# bundle stands beside a control that must PASS. Sourced after negative_model and negative_suite are set.
. "$(dirname "$0")/tap.sh"

model=fixtures/models/$negative_model
suite=fixtures/suites/$negative_suite.json
running=sweep,seeded,rollout,flips,distance,state,determinism,paths
# the policy of the quick suites without its demand for the audit
policy=$scratch/policy.json
sed 's/"own": \["weights", /"own": [/' fixtures/policies/quick.json >"$policy"

# quantized SCHEME DIRECTORY
quantized() {
    "$assay" quantize "$model" --scheme "$1" --out "$2" >/dev/null || exit 99
}
healthy=$scratch/healthy
quantized int8hu_block32_sym "$healthy"

# gate EXIT CHECKS NAME ARGUMENTS...: the exit code, and FAIL of each check named in CHECKS (comma-separated, may be empty).
gate() {
    exit_code=$1 checks=$2 name=$3
    shift 3
    "$assay" gate "$model" --suite "$suite" --policy "$policy" --checks $running --quiet "$@" >"$scratch/log" 2>&1
    found=$?
    status=0
    [ $found = "$exit_code" ] || { status=1; echo "exit $found, expected $exit_code" >>"$scratch/log"; }
    for check in $(echo "$checks" | tr , ' '); do
        grep -Eq "^FAIL +$check " "$scratch/log" || { status=1; echo "expected FAIL $check" >>"$scratch/log"; }
    done
    result $status "$name"
}

control() {
    gate 0 '' "control: $1" --bundle "$2"
}

# fault FAULT CHECKS NAME: in the step of the runtime, with bundle and config.json intact.
fault() {
    gate 1 "$2" "$3" --bundle "$healthy" --fault "$1"
}

# planted FAULT CHECKS NAME [BUNDLE]: in the files of a copy of the bundle.
planted() {
    "$plant" "${4:-$healthy}" "$1" --out "$scratch/$1" >"$scratch/log" 2>&1 || { result 1 "plant $1"; return; }
    gate 1 "$2" "$3" --bundle "$scratch/$1"
    rm -rf "${scratch:?}/$1"
}

# refused FAULT WORDS NAME: a planted bundle that is not opened at all, with all WORDS in the message.
refused() {
    "$plant" "$healthy" "$1" --out "$scratch/$1" >"$scratch/log" 2>&1 || { result 1 "plant $1"; return; }
    "$assay" gate "$model" --suite "$suite" --policy "$policy" --quiet --bundle "$scratch/$1" >"$scratch/log" 2>&1
    [ $? = 2 ] && grep -q "$2" "$scratch/log"
    result $? "$3"
    rm -rf "${scratch:?}/$1"
}

four_bits() {
    quantized int4lin "$scratch/int4"
    gate 1 "$1" 'four-bit weights' --bundle "$scratch/int4"
}

# half_state: the delta net's state is a half where the bundle's declared plan, which this policy allows, says f32.
# Distance to the reference does not show it; that every value is a half does.
half_state() {
    strict=$policy policy=$scratch/float_state.json
    sed 's/"allowed_deviations": \[\]/"allowed_deviations": [{"plan": "delta_state=f32", "reason": "a control"}]/' \
        "$strict" >"$policy"
    "$plant" "$healthy" delta_state_fp32_declared --out "$scratch/floats" >"$scratch/log" 2>&1 || exit 99
    control 'a declared and allowed fp32 delta state passes' "$scratch/floats"
    gate 1 seeded,state 'delta state in fp16 where the plan says fp32' --bundle "$scratch/floats" --fault delta_state_f16
    policy=$strict
}
