# What a training run holds while the engine works: the function its statement's snapshot, the procedures nothing, and neither
# a lock on a table. So others can change whatever they like meanwhile, and the run notices in the end.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

my $node = ia3_node('locks', conf => "ia3.threads = 1\nautovacuum = off\nia3.hang_timeout = 0\n");
create_shots($node);
$node->safe_psql('postgres', q{
    CREATE ROLE ann; CREATE ROLE ben;
    GRANT SELECT ON shots TO PUBLIC;
    GRANT EXECUTE ON PROCEDURE ia3_train_task TO PUBLIC;
    CREATE TABLE dead (n int)});

my $shots = q{'SELECT text, label FROM shots ORDER BY text'};

sub value { return $node->safe_psql('postgres', $_[0]) }

# Runs SQL in a session that has a connection to the engine, with the engine stopped, so that it waits for the engine's
# answer; returns the query, the engine and the backend.
sub start_waiting
{
    my ($sql) = @_;
    my $engine = engine_pid($node);
    my $query = start_query($node, "DO \$\$ BEGIN PERFORM ia3_zero_shot('x', ARRAY['a', 'b']); END \$\$;\n"
        . "\\! kill -STOP $engine\n$sql;\n");
    my $backend = q{FROM pg_stat_activity WHERE wait_event_type = 'Extension' AND query ~ 'ia3_(train|pretrain|evaluate)'
        AND backend_type = 'client backend'};
    ok(wait_for_query($node, "SELECT count(*) = 1 $backend"), "waits: $sql");
    return ($query, $engine, value("SELECT pid $backend"));
}

sub start_training
{
    my @run = start_waiting($_[0]);
    is(value('SELECT pid FROM ia3_stat_progress_train'), $run[2], 'the engine is to train');
    return @run;
}

sub finish_training
{
    my ($query, $engine) = @_;
    kill 'CONT', $engine;
    return finish_query($query);
}

sub table_locks
{
    my ($pid) = @_;
    return value("SELECT string_agg(relation::regclass::text, ', ') FROM pg_locks WHERE pid = $pid AND relation IS NOT NULL "
        . "AND relation >= 16384 AND locktype = 'relation'");
}

# Whether VACUUM can remove rows that have been deleted just now.
sub vacuum_works
{
    value('INSERT INTO dead SELECT generate_series(1, 1000)');
    value('DELETE FROM dead');
    value('VACUUM dead');
    my $works = value("SELECT pg_relation_size('dead') = 0");
    value('TRUNCATE dead');
    return $works;
}

my $snapshot = 'SELECT backend_xmin IS NOT NULL OR backend_xid IS NOT NULL FROM pg_stat_activity WHERE pid =';

# The function has the snapshot of its statement, and no locks, even if it starts from another version.
is(value("SELECT ia3_train('base', $shots, steps => 5, seed => 1)"), '1', 'a first version');
my ($query, $engine, $pid) = start_training("SELECT ia3_train('base', $shots, init => 'base', steps => 10, seed => 1)");
is(value("$snapshot $pid"), 't', 'the function has a snapshot');
is(table_locks($pid), '', 'it has locked no table');
is(vacuum_works(), 'f', 'VACUUM keeps the rows that the snapshot sees');
my ($out, $err) = finish_training($query, $engine);
is($out, "2\n", 'the version is stored');
is(value("SELECT parent_version FROM ia3.adapters WHERE task = 'base' AND version = 2"), '1', 'with its parent');

# A procedure has neither.
($query, $engine, $pid) = start_training("CALL ia3_train_task('base', $shots, init => 'base', steps => 10, seed => 1)");
is(value("$snapshot $pid"), 'f', 'the procedure has no snapshot');
is(table_locks($pid), '', 'it has locked no table');
is(vacuum_works(), 't', 'VACUUM removes dead rows');
($out, $err) = finish_training($query, $engine);
is($out, "3\n", 'the version is stored, and its number returned');

# The same from PL/pgSQL, in a loop over a query.
($query, $engine, $pid) = start_training(
    "DO \$\$ DECLARE r record; v int; BEGIN FOR r IN SELECT * FROM shots LIMIT 1 LOOP "
    . "CALL ia3_train_task('base', \$q\$SELECT text, label FROM shots ORDER BY text\$q\$, init => 'base\@2', steps => 10, seed => 1, "
    . "version => v); RAISE INFO 'version %', v; END LOOP; END \$\$");
is(value("$snapshot $pid"), 'f', 'called by PL/pgSQL it has no snapshot');
is(table_locks($pid), '', 'it has locked no table');
is(vacuum_works(), 't', 'VACUUM removes dead rows');
($out, $err) = finish_training($query, $engine);
like($err, qr/INFO:  00000: version 4/, 'the version is stored');
is(value(q{SELECT count(DISTINCT digest) FROM ia3.adapters WHERE task = 'base' AND version IN (2, 4)}), '2',
    'versions that started from others differ');

# Pre-training holds nothing in any of its segments.
my $pretrain = "CALL ia3_pretrain('both', 'SELECT ''shots'' AS task, text, label FROM shots ORDER BY text', steps => 10, seed => 1, "
    . 'checkpoint_every => ';
for my $every (0, 5) {
    ($query, $engine, $pid) = start_training("$pretrain $every)");
    is(value("$snapshot $pid"), 'f', 'pre-training has no snapshot');
    is(table_locks($pid), '', 'it has locked no table');
    finish_training($query, $engine);
}
is(value(q{SELECT count(DISTINCT digest), count(*) FROM ia3.adapters WHERE task = 'both'}), '1|2', 'both runs give the same version');

# Evaluation takes as long as its query has rows.
value(q{CREATE TABLE many AS SELECT text || i AS text, label FROM shots, generate_series(1, 200) i});
($query, $engine, $pid) = start_waiting("SELECT n FROM ia3_evaluate('base', 'SELECT text, label FROM many')");
is(table_locks($pid), 'many', 'it has locked only the table of its query');
($out, $err) = finish_training($query, $engine);
is($out, "1600\n", 'it goes on');

# The task is dropped: it is made again. It gets another owner: the run fails.
($query, $engine) = start_training("SET ROLE ann; CALL ia3_train_task('hers', $shots, steps => 10, seed => 1)");
finish_training($query, $engine);
is(value(q{SELECT owner FROM ia3.adapters WHERE task = 'hers'}), 'ann', 'a task of hers');
($query, $engine) = start_training("SET ROLE ann; CALL ia3_train_task('hers', $shots, steps => 10, seed => 1)");
value(q{SELECT ia3_drop('hers')});
($out, $err) = finish_training($query, $engine);
is($out, "2\n", 'a task that is dropped meanwhile is made again, with a number that has not been given');
($query, $engine) = start_training("SET ROLE ann; CALL ia3_train_task('hers', $shots, steps => 10, seed => 1)");
value(q{SELECT ia3_reassign('ann', 'ben')});
($out, $err) = finish_training($query, $engine);
like($err, qr/ERROR:  42710: the name "hers" cannot be used for a new ia3 task/, 'one that belongs to another role by then is not changed');
is(value(q{SELECT count(*) FROM ia3.adapters WHERE task = 'hers'}), '1', 'no version is stored');

# The role is dropped.
value('GRANT EXECUTE ON FUNCTION ia3_train TO PUBLIC; GRANT EXECUTE ON PROCEDURE ia3_pretrain TO PUBLIC');
for my $call ("SELECT ia3_train('his', $shots, steps => 10, seed => 1)", "CALL ia3_train_task('his', $shots, steps => 10, seed => 1)",
    "$pretrain 5)" =~ s/'both'/'his'/r) {
    value('CREATE ROLE tim');
    ($query, $engine) = start_training("SET ROLE tim; $call");
    value('DROP ROLE tim');
    ($out, $err) = finish_training($query, $engine);
    like($err, qr/ERROR:  42704: role with OID \d+ does not exist/, 'the role is dropped meanwhile');
    is(value(q{SELECT count(*) FROM ia3.task WHERE task = 'his'}), '0', 'nothing is stored');
}

# Cancelling and terminating it.
for my $function ('pg_cancel_backend', 'pg_terminate_backend') {
    ($query, $engine, $pid) = start_training("CALL ia3_train_task('gone', $shots, steps => 1000000, seed => 1)");
    value("SELECT $function($pid)");
    ($out, $err) = finish_query($query);
    like($err, qr/ERROR:  57014|FATAL:  57P01/, "$function ends it although the engine does not answer");
    kill 'CONT', $engine;
    ok(wait_for_query($node, 'SELECT train_jobs = 0 FROM ia3_stat_engine'), 'the engine forgets the run');
}
is(value(q{SELECT count(*) FROM ia3.task WHERE task = 'gone'}), '0', 'nothing is stored');

# The extension is dropped: nothing waits, and the run fails.
for my $call ("SELECT ia3_train('late', $shots, steps => 10, seed => 1)",
    "CALL ia3_train_task('late', $shots, steps => 10, seed => 1)", "$pretrain 0)", "$pretrain 5)") {
    ($query, $engine) = start_training($call);
    value(q{SET lock_timeout = '10s'; DROP EXTENSION ia3});
    ($out, $err) = finish_training($query, $engine);
    like($err, qr/ERROR:  42704: extension "ia3" does not exist\n.*DETAIL:  It was dropped after this call had begun/,
        'the extension is dropped meanwhile');
    value('CREATE EXTENSION ia3');
    is(value('SELECT count(*) FROM ia3.task'), '0', 'nothing is stored');
}

# Another role has made tables of the same names by then. Nothing is written to them, and nobody acts as their owner.
value(q{CREATE ROLE mallory; CREATE TABLE stolen (who text); GRANT ALL ON stolen TO PUBLIC;
    GRANT CREATE ON DATABASE postgres TO mallory});
for my $call ("SELECT ia3_train('late', $shots, steps => 10, seed => 1)",
    "CALL ia3_train_task('late', $shots, steps => 10, seed => 1)", "$pretrain 0)", "$pretrain 5)") {
    ($query, $engine) = start_training($call);
    value(q{SET lock_timeout = '10s'; DROP EXTENSION ia3; SET ROLE mallory; CREATE SCHEMA ia3; GRANT USAGE ON SCHEMA ia3 TO PUBLIC;
        CREATE TABLE ia3.task (task text PRIMARY KEY, owner regrole, backbone text, template text[], choices text[], next_version int DEFAULT 1);
        CREATE FUNCTION ia3.role(regrole) RETURNS regrole LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.stolen VALUES (current_user); RETURN $1; END $$;
        GRANT ALL ON ia3.task TO PUBLIC});
    ($out, $err) = finish_training($query, $engine);
    like($err, qr/ERROR:  42704: extension "ia3" does not exist\n.*DETAIL:  It was dropped after this call had begun/,
        'tables that are not of the extension do not count');
    is(value('SELECT count(*) FROM ia3.task') . value('SELECT count(*) FROM stolen'), '00', 'nothing is written');
    value('DROP SCHEMA ia3 CASCADE; CREATE EXTENSION ia3');
}

$node->stop;
done_testing();
