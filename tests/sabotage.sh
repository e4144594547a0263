#!/usr/bin/env bash
# Plants one bug after another in a copy of the working tree and runs the torture on it, or the simulation of a cluster: each
# must be found. A test that cannot fail proves nothing, and this is how we know that these can.
#
#     tests/sabotage.sh [WORD...]       all bugs, or those whose names hold one of the words; those of clusters begin with one
#
# Every bug is a file, the exact text that is replaced and what replaces it; text that is not there any more is an error.
# Runs grow longer until the bug is found: SABOTAGE_SECONDS (default "2 6 20") for each test of the torture, SABOTAGE_SEEDS
# (default "1..21 21..101 101..301") for simulations, which stop at the first seed that finds it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
seconds=${SABOTAGE_SECONDS:-2 6 20}
seeds=${SABOTAGE_SEEDS:-1..21 21..101 101..301}
suite=torture
# One target directory for all bugs: each rebuilds the library and the torture, and nothing else.
export CARGO_TARGET_DIR=${SABOTAGE_TARGET_DIR:-$root/target/sabotage}
export CARGO_INCREMENTAL=1
export RUST_BACKTRACE=0

tree=$(mktemp -d)
log=$(mktemp)
git worktree add --quiet --detach "$tree" HEAD
trap 'git -C "$root" worktree remove --force "$tree"; rm -f "$log"' EXIT
# What is not committed yet counts too.
git diff --binary HEAD | git -C "$tree" apply --allow-empty
git ls-files --others --exclude-standard -z | xargs -0 --no-run-if-empty cp --parents --target-directory "$tree"

wanted=("$@")
survivors=()
count=0

# plant NAME FILE OLD NEW: one bug, from text to verdict.
plant() {
    local name=$1 file=$tree/$2 old=$3 new=$4 text word chosen=${#wanted[@]}
    for word in "${wanted[@]}"; do [[ $name == *"$word"* ]] && chosen=0; done
    [[ $chosen == 0 ]] || return 0
    count=$((count + 1))
    text=$(<"$file")
    if [[ $text != *"$old"* ]]; then
        printf 'ERROR: the text of "%s" is not in %s any more\n' "$name" "$2" >&2
        exit 2
    fi
    printf '%s\n' "${text/"$old"/"$new"}" >"$file"
    local command=(cargo test --quiet --test torture) lengths=$seconds
    [[ $suite == torture ]] || { command=(cargo test --quiet --profile simulation --test simulation) && lengths=$seeds; }
    if ! (cd "$tree" && "${command[@]}" --no-run) >"$log" 2>&1; then
        tail -40 "$log" >&2
        printf 'ERROR: "%s" does not compile\n' "$name" >&2
        exit 2
    fi
    local found='' length
    for length in $lengths; do
        if ! (cd "$tree" && QUANTADB_TORTURE_SECONDS=$length QUANTADB_SIM_SEEDS=$length timeout 900 "${command[@]}" -- --nocapture \
            --test-threads 1 $([[ $suite == torture ]] || printf 'cluster::')) >"$log" 2>&1; then
            found=$length
            break
        fi
    done
    printf '%s\n' "$text" >"$file"
    if [[ -z $found ]]; then
        printf 'SURVIVED  %s\n' "$name"
        survivors+=("$name")
        return 0
    fi
    # The checker's verdict says more than what a client noticed on its way.
    local why
    why=$(grep -m1 -E 'seed [0-9]+: not strictly' "$log" || grep -m1 -A1 'panicked at' "$log" || tail -3 "$log")
    local unit='s a test'
    [[ $suite == torture ]] || unit='among the seeds'
    printf 'found     %s, in %s %s\n          %s\n' "$name" "$found" "$unit" "$(cut -c1-260 <<<"${why//$'\n'/ }")"
}

plant 'the range check taken out' src/txn/resolver/mod.rs \
    'if ranges.iter().all(KeyRange::is_empty) {' \
    'if ranges.len() < usize::MAX {'

plant 'a scan read only to its last row' src/txn/scan.rs \
    '            (_, false) if self.exhausted => end.clone(),
            (_, true) if self.exhausted => start.clone(),
' ''

plant 'a snapshot whose gets read what is newest' src/storage/mod.rs \
    'self.engine.get_at(&self.pin, &[key], &mut |_, row| {' \
    'self.engine.get_latest(&[key], &mut |_, _, row| {'

plant 'a fence ignored' src/node/decide.rs \
    'Ok(Some(record)) => waiter.result_of(record),' \
    'Ok(Some(Record::Never)) => return false,
            Ok(Some(record)) => waiter.result_of(record),'

plant 'an answer before what it saw is committed' src/node/committer.rs \
    'if deferred.seen <= self.applied { deferred.deliver() } else { self.settling.push(deferred) }' \
    'deferred.deliver()'

plant 'an entry applied that does not continue' src/txn/apply.rs \
    'if header.first_version != before.version.next() {' \
    'if header.first_version < Version::ZERO {'

plant 'a record ignored, so that a retry commits again' src/node/decide.rs \
    'Ok(Some(record)) => waiter.result_of(record),' \
    'Ok(Some(Record::Committed(..))) => return false,
            Ok(Some(record)) => waiter.result_of(record),'

plant 'a retry that does not wait for the attempt in flight' src/node/decide.rs \
    'if let Some(waiters) = self.keyed.get_mut(&keyed.pair) {' \
    'if let Some(waiters) = self.keyed.get_mut(&keyed.pair).filter(|_| false) {'

plant 'a one-shot blind to what is in flight' src/node/view.rs \
    'Ok(self.in_flight.fold(key, self.snapshot.version(), stored))' \
    'Ok(stored)'

plant 'a lost entry told as not applied' src/node/committer.rs \
    'Fate::Lost => self.fail_entry(sequence, handed, &Refusal::Unknown)' \
    'Fate::Lost => self.fail_entry(sequence, handed, &Refusal::NotApplied)'

plant 'snapshot isolation without its first committer' src/txn/transaction.rs \
    'if self.isolation == Isolation::Snapshot {' \
    'if false {'

plant 'writes that stay after a rollback to a savepoint' src/txn/transaction.rs \
    '        self.writes.truncate(self.savepoints[at].mark);
' ''

plant 'a range delete that is not a read' src/txn/transaction.rs \
    '        self.told(kind, range.clone())?;
        let before' \
    '        let before'

suite=simulation

plant 'cluster: an entry behind a refused one taken as if nothing had happened' src/txn/apply.rs \
    'if header.first_version != before.version.next() {' \
    'if header.first_version < before.version.next() {'

plant 'cluster: a vote not synced' src/consensus/disk_log.rs \
    '        done(|told| self.log.save_vote(vote, told)).await' \
    '        drop(vote);
        Ok(())'

plant 'cluster: a leader restored without an election' src/consensus/driver.rs \
    '        enable_leader_restore: Some(false),
' ''

plant 'cluster: an entry acknowledged before it is durable' src/consensus/disk_log.rs \
    '        self.log.append(
            entries,
            Box::new(move |done| {
                if let Err(error) = &done {
                    queue.send(Message::Failed(Failed(error.to_string())));
                }
                callback.io_completed(done.map_err(failed));
            }),
        );' \
    '        self.log.append(
            entries,
            Box::new(move |done| {
                if let Err(error) = &done {
                    queue.send(Message::Failed(Failed(error.to_string())));
                }
            }),
        );
        callback.io_completed(Ok(()));'

plant 'cluster: a stale read by an old leader' src/consensus/driver.rs \
    '        if self.reads.local() {
            return confirm(true);' \
    '        if self.reads.local() || self.leads.borrow_watched().state == ServerState::Leader {
            return confirm(true);'

plant 'cluster: a commit that an old term has resolved' src/consensus/driver.rs \
    'raft.write(Command(entry)).with_leader(types::leader(term, self.node)).responder(reply)' \
    'raft.write(Command({ let _ = term; entry })).responder(reply)'

plant 'cluster: a key forgotten at failover' src/node/decide.rs \
    '            Ok(Some(record)) => waiter.result_of(record),
            Ok(None) if keyed.pair.seen' \
    '            Ok(Some(Record::Committed(..))) if self.metrics.term.load(std::sync::atomic::Ordering::Relaxed) > 1 => return false,
            Ok(Some(record)) => waiter.result_of(record),
            Ok(None) if keyed.pair.seen'

plant 'cluster: a pre-vote that grants' src/consensus/peers.rs \
    '        self.ask_for_vote(PeerOpcode::PreVote, request, &option).await' \
    '        let _ = option;
        Ok(VoteResponse::new(request.vote, None, true))'

plant 'cluster: metadata of a snapshot off by one' src/consensus/snapshots.rs \
    '            log_id,
            version,
            chain,' \
    '            log_id: log_id.map(|log_id| crate::types::LogId { index: log_id.index - 1, ..log_id }),
            version,
            chain,'

plant 'cluster: local reads after growth from one voter' src/consensus/store.rs \
    'self.local.store(leads && state.alone_applied && state.alone_appended, Ordering::Release);' \
    'self.local.store(leads, Ordering::Release);'

plant 'cluster: a follower that reads what it has' src/node/reader.rs \
    'Some(forwarder) if !self.group.is_leader() => {' \
    'Some(_) if !self.group.is_leader() => {}
            Some(forwarder) if self.env.now() == deadline => {'

plant 'cluster: a forwarded write whose answer is lost, told as not applied' src/node/forward.rs \
    'if writes { &Refusal::Unknown } else' \
    'if writes { &Refusal::NotApplied } else'

plant 'cluster: a staleness that nobody has found out' src/node/reader.rs \
    'Moment(self.0.load(Ordering::Acquire))' \
    'Moment(self.0.load(Ordering::Acquire) | (u64::MAX >> 1))'

if ((count == 0)); then
    printf 'ERROR: no bug has such a name\n' >&2
    exit 2
fi
printf '%d planted, %d survived\n' "$count" "${#survivors[@]}"
((${#survivors[@]} == 0))
