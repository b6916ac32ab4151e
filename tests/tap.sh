# What the end-to-end scripts share: TAP lines, a scratch directory, the two programs. Sourced, with $1 assay and $2 plant.
set -u
assay=$1
plant=$2
model=fixtures/models/lfm2-mini
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export XDG_CACHE_HOME="$scratch/cache"
count=0

# result STATUS NAME: one TAP line; what $scratch/log holds explains a failure.
result() {
    count=$((count + 1))
    if [ "$1" = 0 ]; then
        echo "ok $count - $2"
    else
        echo "not ok $count - $2"
        sed 's/^/# /' "$scratch/log" | head -n 40
    fi
}

finish() {
    echo "1..$count"
}
