# Batching changes no row and no error: every form of query in test/batching is run with batching on and off, under settings
# that make the planner choose different plans. Also, what happens to batches in progress when a query ends early.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Batching;
use Ia3Test;

my $directory = "$ENV{TESTDIR}/batching";
my $node = batching_node('batching');
$node->safe_psql('postgres', slurp_file("$directory/setup.sql"));
my ($version) = $node->safe_psql('postgres', 'SHOW server_version_num') =~ /^(\d+)\d{4}$/;

my @blocks = (read_corpus("$directory/corpus.sql"), read_corpus("$directory/statements.sql"));
@blocks = grep { $_->{name} !~ /^merge_statement/ } @blocks if $version < 15;
cmp_ok(scalar @blocks, '>=', 134, 'the corpus is there');
my $reference;
for my $setting (planner_settings($version)) {
    my ($name, $commands) = @$setting;
    my $off = run_blocks($node, "$commands SET ia3.enable_batching = off;", @blocks);
    my $on = run_blocks($node, $commands, @blocks);
    my @different = compare_runs($on, $off, @blocks);
    is(scalar @different, 0, "$name: the same rows and errors with and without batching");
    diag($_) for @different;
    $reference //= $on;
}
my @empty = grep { !@{ $reference->{ $_->{name} } } } @blocks;
cmp_ok(scalar @empty, '<', 10, 'and most have some');

# Rows that another session changes during a query are rechecked, or skipped, as without batching.
my @concurrent = (
    q{UPDATE docs SET label = ia3_predict('topic', doc, ARRAY['bug', 'feature', 'question'])
        WHERE ia3_predict('mood', doc, ARRAY['x', 'y', 'z']) IS NOT NULL},
    q{UPDATE docs d SET label = ia3_predict('topic', d.doc, t.choices) || t.id FROM tickets t
        WHERE t.id = d.id AND ia3_predict('mood', t.body, t.choices) <> 'question'},
    q{INSERT INTO seen SELECT id, ia3_predict('topic', doc, ARRAY['bug', 'feature', 'question']) FROM docs ORDER BY id FOR UPDATE},
    q{INSERT INTO seen SELECT id, ia3_predict('topic', doc, ARRAY['bug', 'feature', 'question']) FROM docs ORDER BY id
        LIMIT 4 FOR UPDATE SKIP LOCKED},
    q{INSERT INTO seen SELECT id, ia3_predict('topic', doc) FROM docs
        WHERE ia3_predict('mood', doc, ARRAY['x', 'y', 'z']) = 'y' FOR UPDATE});
$node->safe_psql('postgres', 'CREATE TABLE seen (id int, label text); CREATE TABLE docs_before AS SELECT * FROM docs');
for my $statement (@concurrent) {
    my @results;
    for my $batching ('off', 'on') {
        $node->safe_psql('postgres', 'TRUNCATE seen, docs; INSERT INTO docs SELECT * FROM docs_before');
        my $other = start_query($node, q{BEGIN; UPDATE docs SET doc = jsonb_build_object('text', 'changed ' || id)
            WHERE id IN (3, 4, 9); SELECT pg_sleep(1); COMMIT;});
        wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
        $node->safe_psql('postgres', "SET ia3.enable_batching = $batching; SET ia3.batch_rows = 5; $statement");
        finish_query($other);
        push @results, $node->safe_psql('postgres',
            "SELECT 'seen', * FROM seen UNION ALL SELECT 'docs', id, label FROM docs ORDER BY 1, 2");
    }
    is($results[1], $results[0], 'with concurrent changes: ' . substr($statement, 0, 40));
    cmp_ok(length $results[0], '>', 150, 'and rows to show');
}

# EXPLAIN counts the same as the engine.
$node->safe_psql('postgres', q{
    CREATE TABLE many AS SELECT i AS id, 'text number ' || i AS body FROM generate_series(1, 2000) i; ANALYZE many});
my ($before) = $node->safe_psql('postgres', 'SELECT rows FROM ia3_stat_engine');
my $explain = $node->safe_psql('postgres', q{
    SET max_parallel_workers_per_gather = 0; SET ia3.batch_rows = 100;
    EXPLAIN (ANALYZE, COSTS OFF) SELECT id, ia3_predict(body, ARRAY['a', 'b']) FROM many});
like($explain, qr/Batches: 20\s+Batched Rows: 2000\s+Largest Batch: 100\b/, 'full batches');
is($node->safe_psql('postgres', 'SELECT rows FROM ia3_stat_engine') - $before, 2000, 'each row is asked about once');

# Memory for computing arguments is freed after each row, not after each batch.
my ($peak) = $node->safe_psql('postgres', q{
    SET max_parallel_workers_per_gather = 0;
    CREATE TEMP TABLE huge AS SELECT i AS id, repeat(md5(i::text), 30000) AS body FROM generate_series(1, 600) i;
    SELECT count(ia3_predict(left(body, 30), ARRAY['a', 'b'])) FROM huge;
    SELECT count(p) FROM (SELECT ia3_predict_window(left(body, 30), ARRAY['a', 'b']) OVER () AS p FROM huge) s;
    SELECT pg_read_file('/proc/' || pg_backend_pid() || '/status')}) =~ /VmHWM:\s+(\d+) kB/;
cmp_ok($peak, '<', 120 * 1024, 'documents of 1 MB of which some words are used');

# Returns by how much the engine's counters have grown since the last call; means are converted back to sums.
my %counted;
sub growth {
    my @names = qw(batches rows tasks dedup waited);
    my (%now, %grown);
    @now{@names} = split /\|/, $node->safe_psql('postgres', q{
        SELECT batches, rows, round(distinct_tasks_per_batch * batches), dedup_rows, score_wait_seconds
          FROM ia3_stat_engine});
    $grown{$_} = $now{$_} - ($counted{$_} // 0) for @names;
    %counted = %now;
    return \%grown;
}

# Rows of many tasks share batches.
growth();
is($node->safe_psql('postgres', q{
    SELECT count(ia3_predict('p' || i % 90 + 3, body, ARRAY['a', 'b', 'c']))
      FROM (SELECT i, 'text number ' || i AS body FROM generate_series(1, 900) i OFFSET 0) s}), '900', 'rows of 90 tasks');
my $grown = growth();
is($grown->{rows}, 900, 'are all computed');
cmp_ok($grown->{batches}, '<=', 12, 'in few batches');
# these tasks are copies of three; the last rows of a request may form a small batch
cmp_ok($grown->{tasks}, '>=', 2 * $grown->{batches}, 'each with several adapters');

# So do rows of many sessions, and identical rows are computed once. The sessions send them while the engine is stopped.
my $gate = start_query($node, 'BEGIN; SELECT pg_advisory_xact_lock(3); SELECT pg_sleep(60);');
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'}), 'a gate is closed');
my @sessions = map { start_query($node, q{
    SELECT length(ia3_predict('connects', ARRAY['a', 'b']));
    SELECT pg_advisory_xact_lock_shared(3);
    SELECT 'answered', length(ia3_predict('the same text', ARRAY['a', 'b']));}) } 1 .. 8;
ok(wait_for_query($node, q{SELECT count(*) = 8 FROM pg_stat_activity WHERE wait_event = 'advisory'}), '8 sessions before it');
growth();
my $stopped = engine_pid($node);
kill 'STOP', $stopped;
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
ok(wait_for_query($node, q{SELECT count(*) = 8 FROM pg_stat_activity
    WHERE query LIKE '%the same text%' AND state = 'active' AND wait_event_type = 'Extension'}), 'all of them ask');
kill 'CONT', $stopped;
finish_query($gate);
is(scalar(grep { (finish_query($_))[0] =~ /answered\|1/ } @sessions), 8, 'and get answers');
$grown = growth();
is($grown->{rows}, 8, 'one each');
cmp_ok($grown->{batches}, '<', 8, 'in fewer batches');
is($grown->{dedup}, 8 - $grown->{batches}, 'computed once per batch');
cmp_ok($grown->{waited}, '>', 0, 'after some waiting');

# A query that ends early leaves nothing behind, and the session continues.
my $all = q{SELECT count(ia3_predict(body || clock_timestamp()::text, ARRAY['a', 'b'])) FROM many};
my $scan = q{SELECT id, ia3_predict(body, ARRAY['a', 'b']) FROM many};
my ($status, $out, $err) = $node->psql('postgres', qq{
    SET ia3.batch_rows = 50; SET max_parallel_workers_per_gather = 0;
    SELECT count(*) FROM ($scan OFFSET 0) s WHERE 1000 / (1000 - id) IS NULL;
    SELECT count(*) FROM ($scan OFFSET 0) s;
    DO \$\$ DECLARE r record; BEGIN FOR i IN 1 .. 20 LOOP
        FOR r IN $scan LOOP EXIT WHEN r.id = 60; END LOOP;
    END LOOP; END \$\$;
    SELECT count(*) FROM ($scan OFFSET 0) s;
    DO \$\$ DECLARE r record; BEGIN FOR i IN 1 .. 20 LOOP
        BEGIN
            FOR r IN $scan LOOP IF r.id = 60 THEN RAISE EXCEPTION 'stop'; END IF; END LOOP;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
        BEGIN
            PERFORM count(*) FROM ($scan OFFSET 0) s WHERE 1000 / (60 + i - id) IS NULL;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END LOOP; END \$\$;
    SELECT count(*) FROM ($scan OFFSET 0) s;
    SET statement_timeout = '30ms'; SELECT count(*) FROM many a, LATERAL ia3_classify(a.body, ARRAY['a', 'b']);
    RESET statement_timeout;
    SELECT count(*) FROM ($scan OFFSET 0) s}, on_error_stop => 0);
is($out, "2000\n2000\n2000\n2000", 'errors, exits and timeouts in the middle of batches');
like($err, qr/division by zero/, 'the error');
like($err, qr/canceling statement due to statement timeout/, 'the timeout');
ok(wait_until(sub { $node->safe_psql('postgres', 'SELECT queue_rows FROM ia3_stat_engine') eq '0' }),
    'the engine forgets what nobody waits for');
ok(wait_until(sub { $node->safe_psql('postgres', 'SELECT connections FROM ia3_stat_engine') <= 2 }),
    'and no connection is left');

# Evaluation sends its rows in batches as well. More text than fits in a request is sent in several.
is($node->safe_psql('postgres', q{SELECT n FROM ia3_evaluate('base1', $$SELECT repeat('word ', 6800000) AS text, 'a' AS label
    FROM generate_series(1, 8)$$)}), '8', 'evaluation on long texts');

# The engine dies during a query that reads ahead.
my $pid = engine_pid($node);
my $query = start_query($node,
    "SET ia3.batch_rows = 20;\nSELECT length(ia3_predict('x', ARRAY['a', 'b']));\n\\! kill -STOP $pid\n$scan;\nSELECT 'next', count(*) FROM many;\n");
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity
    WHERE query LIKE '%ia3_predict(body%FROM many;' AND wait_event_type = 'Extension'}), 'a query waits for a batch');
kill 'KILL', $pid;
($out, $err) = finish_query($query);
like($err, qr/ERROR:  08006: ia3 engine for backbone "default" went away/, 'it gets an ERROR');
like($out, qr/next\|2000/, 'and the session goes on');
ok(wait_for_state($node, 'default', 'ready'), 'with a new engine');
is($node->safe_psql('postgres', "SELECT count(*) FROM ($scan OFFSET 0) s"), '2000', 'which answers');

$node->stop;
done_testing();
