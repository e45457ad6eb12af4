# Deferred watches: whatever is killed, every row gets its label in the end, once, and nobody has to run a statement for that; an engine
# that is missing only delays; workers are in nobody's way, and end with their database.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

use constant ROWS => 1200;

my $node = ia3_node('deferred',
    conf => "ia3.watch_timeout = 3\nia3.watch_attempts = 2\nmax_prepared_transactions = 2\nwal_level = replica\nmax_wal_senders = 4\n" .
      "restart_after_crash = on\n");
create_shots($node);

sub value
{
    my ($sql, $database) = @_;
    return $node->safe_psql($database // 'postgres', $sql);
}

# A value that may not be available while the server recovers from a crash.
sub try_value
{
    my ($sql, $on) = @_;
    my ($rc, $out) = ($on // $node)->psql('postgres', $sql);
    return $rc == 0 ? $out : '';
}

value(q{SELECT ia3_train('topic', 'SELECT text, label FROM shots', steps => 2, seed => 1);
    CREATE ROLE keeper; SELECT ia3_grant('topic', 'keeper')});
value(<<'SQL');
CREATE TABLE tickets (id int PRIMARY KEY, body text, topic text, version int);
CREATE TABLE log (id int);
CREATE FUNCTION log_label() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.log VALUES (NEW.id); RETURN NEW; END';
CREATE TRIGGER log_label AFTER UPDATE OF topic ON tickets FOR EACH ROW EXECUTE FUNCTION log_label();
ALTER TABLE tickets OWNER TO keeper;
ALTER TABLE log OWNER TO keeper;
CREATE FUNCTION slowly(body text) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.0003); RETURN body; END';
SELECT ia3_watch('tickets', 'topic', 'slowly(body)', 'topic', 'version', mode => 'deferred');
SQL

my $waiting = 'SELECT count(*) FROM ia3.watch_entry';
my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'ia3 watch worker'};

sub begin_again
{
    value(q{TRUNCATE log; DELETE FROM tickets});
    return;
}

sub insert_rows
{
    my ($from, $to) = @_;
    value("INSERT INTO tickets SELECT i, 'ticket ' || i FROM generate_series($from, $to) i");
    return;
}

# Waits until nothing waits, while only the queue is looked at; then every row must have its label, and must have got it once.
sub is_complete
{
    my ($what, $rows) = @_;
    ok(wait_until(sub { try_value($waiting) eq '0' }), "$what: the queue is empty in the end");
    is(value('SELECT count(*), count(DISTINCT id) FROM log'), "$rows|$rows", "$what: each row was labelled once");
    is(value(q{SELECT count(*), count(*) FILTER (WHERE topic = ia3_predict('topic@1', body) AND version = 1) FROM tickets}), "$rows|$rows",
        "$what: all have their label and the version");
    return;
}

# Restarts the server without an engine, and starts one.
sub stop_engine
{
    value(q{ALTER SYSTEM SET ia3.backbones = 'default=/nowhere'});
    $node->restart;
    ok(wait_for_state($node, 'default', 'failed'), 'no engine runs');
    return;
}

sub start_engine
{
    value('ALTER SYSTEM RESET ia3.backbones');
    value('SELECT pg_reload_conf()');
    return;
}

# Kills the postmaster, and waits for its children to notice, and for init to reap it.
sub kill_server
{
    my $directory = $node->data_dir;
    my $pid = postmaster_pid($node);
    $node->kill9;
    ok(wait_until(sub { !kill(0, $pid) && !grep { (readlink($_) // '') eq $directory } glob '/proc/[0-9]*/cwd' }), 'the server is killed');
    return;
}

# --- an engine that is missing only delays ---
stop_engine();
insert_rows(1, 10);
ok(wait_for_query($node, 'SELECT attempts >= 2 FROM ia3.watch_queue'), 'the worker tries again');
like(value('SELECT last_error FROM ia3.watch_queue'), qr/engine for backbone "default" (could not start|is not ready)/, 'the queue says what is missing');
is(value('SELECT waiting, set_aside FROM ia3.watch_queue'), '10|0', 'all rows wait');
is(value('SELECT count(*) FROM ia3.watch_failed_rows'), '0', 'and none is at fault');
start_engine();
is_complete('without an engine', 10);
is(value('SELECT count(*) FROM ia3.watch_failure'), '0', 'the failure is forgotten');

# --- kill -9 ---
begin_again();
insert_rows(1, ROWS);
ok(wait_for_query($node, "SELECT count(*) = 1 FROM ($worker) w"), 'a worker runs');
kill 'KILL', value($worker);
is_complete('the worker is killed', ROWS);

begin_again();
insert_rows(1, ROWS);
ok(wait_until(sub { value('SELECT max(queue_rows) > 0 FROM ia3_stat_engine') eq 't' || value('SELECT count(*) FROM log') ne '0' }), 'the engine works');
kill 'KILL', engine_pid($node);
is_complete('the engine is killed', ROWS);

begin_again();
my $other = start_query($node, q{BEGIN; INSERT INTO tickets SELECT i, 'never' FROM generate_series(90001, 90010) i; SELECT pg_sleep(600);});
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query ~ 'pg_sleep\(600'}), 'a backend has queued rows');
insert_rows(1, ROWS);
kill 'KILL', value(q{SELECT pid FROM pg_stat_activity WHERE query ~ 'pg_sleep\(600' AND pid <> pg_backend_pid()});
finish_query($other);
is_complete('a backend is killed', ROWS);

begin_again();
insert_rows(1, ROWS);
kill_server();
$node->start;
is_complete('the server is killed', ROWS);

# Rows that wait already when the server starts, and an engine that is there only then.
begin_again();
stop_engine();
insert_rows(1, 20);
kill_server();
$node->append_conf('postgresql.auto.conf', "ia3.backbones = 'default=$Ia3Test::BACKBONE'");
$node->start;
is_complete('the server is killed while rows wait', 20);

# --- signals ---
begin_again();
insert_rows(1, ROWS);
ok(wait_for_query($node, "SELECT count(*) = 1 FROM ($worker) w"), 'a worker runs');
value("SELECT pg_terminate_backend(pid) FROM ($worker) w");
is_complete('the worker is told to end', ROWS);
value(q{SELECT pg_cancel_backend(pid), pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'ia3 watch launcher'});
begin_again();
insert_rows(1, 20);
is_complete('the launcher is told to end', 20);
ok(wait_for_query($node, "SELECT count(*) = 0 FROM ($worker) w"), 'without work the worker ends');

# --- others ---
# A row that is locked is passed over.
begin_again();
stop_engine();
insert_rows(1, 20);
$other = start_query($node, q{BEGIN; SELECT FROM tickets WHERE id = 7 FOR UPDATE; SELECT pg_sleep(600);});
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query ~ 'pg_sleep\(600'}), 'a row is locked');
start_engine();
ok(wait_for_query($node, 'SELECT count(*) = 19 FROM log'), 'the others are labelled');
is(value('SELECT waiting, attempts FROM ia3.watch_queue'), '1|0', 'it waits');
value(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'pg_sleep\(600' AND pid <> pg_backend_pid()});
finish_query($other);
is_complete('a locked row', 20);

# While the engine answers nothing, the worker waits for it, and holds no lock.
begin_again();
value(q{CREATE TABLE doomed (id int PRIMARY KEY, body text, topic text); ALTER TABLE doomed OWNER TO keeper;
    SELECT ia3_watch('doomed', 'topic', 'body', 'topic', mode => 'deferred')});
my $engine = engine_pid($node);
kill 'STOP', $engine;
value(q{INSERT INTO doomed SELECT i, 'doomed' FROM generate_series(1, 5) i});
insert_rows(1, 5);
ok(wait_for_query($node, q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'ia3 watch worker' AND state = 'active' AND backend_xmin IS NULL}), 'a worker waits for the engine');
value(q{SET statement_timeout = '20s'; UPDATE tickets SET body = 'changed meanwhile' WHERE id = 1; UPDATE doomed SET body = 'changed meanwhile'; DROP TABLE doomed});
pass('rows can be changed, and the table dropped');
kill 'CONT', $engine;
is_complete('a row that was changed meanwhile', 5);

# A row whose expression does not end, and one that raises errors.
begin_again();
value(q{CREATE OR REPLACE FUNCTION slowly(body text) RETURNS text LANGUAGE plpgsql AS 'BEGIN
    IF body = ''ticket 3'' THEN PERFORM pg_sleep(100000); END IF; IF body = ''ticket 4'' THEN RAISE ''not this one''; END IF; RETURN body; END'});
insert_rows(1, 6);
ok(wait_until(sub { value('SELECT count(*) FROM log') eq '4' && value('SELECT count(*) FROM ia3.watch_failed_rows WHERE set_aside') eq '2' }), 'the others are labelled');
is(value('SELECT key, attempts, error FROM ia3.watch_failed_rows ORDER BY key'),
    "{3}|2|canceling statement due to statement timeout\n{4}|2|not this one", 'those two are set aside');
value(q{CREATE OR REPLACE FUNCTION slowly(body text) RETURNS text LANGUAGE sql AS 'SELECT body'});
is(value(q{SELECT ia3_watch_retry('tickets')}), '2', 'they are tried again');
is_complete('rows at fault', 6);

# A prepared transaction.
begin_again();
value(q{BEGIN; INSERT INTO tickets VALUES (1, 'prepared'); PREPARE TRANSACTION 'rows'});
ok(wait_for_query($node, "SELECT count(*) = 0 FROM ($worker) w"), 'the worker has ended');
value(q{COMMIT PREPARED 'rows'});
is_complete('a prepared transaction', 1);

# --- databases ---
begin_again();
kill 'STOP', $engine = engine_pid($node);
value('CREATE DATABASE second TEMPLATE postgres');
$node->safe_psql('second', q{INSERT INTO tickets VALUES (1, 'one'), (2, 'two')});
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ia3 watch worker' AND datname = 'second'}), 'a worker runs in another database');
value('CREATE DATABASE third TEMPLATE second');
pass('which can be copied');
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'ia3 watch worker' AND datname = 'third'}), 'the copy gets a worker');
value('ALTER DATABASE third RENAME TO fourth');
pass('and renamed');
value('DROP DATABASE second');
pass('and dropped');
kill 'CONT', $engine;
ok(wait_until(sub { $node->safe_psql('fourth', $waiting) eq '0' }), 'the rows of the copy are labelled');
is($node->safe_psql('fourth', 'SELECT count(*) FROM tickets WHERE version = 1'), '2', 'all of them');
my $dump = $node->backup_dir . '/deferred.dump';
mkdir $node->backup_dir;
kill 'STOP', $engine;
$node->safe_psql('fourth', q{INSERT INTO tickets VALUES (3, 'three')});
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('fourth') ], 'pg_dump');
value('CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('restored'), $dump ], 'pg_restore');
is($node->safe_psql('restored', "$waiting; SELECT count(*), count(topic) FROM tickets"), "0\n3|2", 'restores the watch, but not the queue');
kill 'CONT', $engine;
$node->safe_psql('restored', q{INSERT INTO tickets VALUES (4, 'four')});
ok(wait_until(sub { $node->safe_psql('restored', 'SELECT version FROM tickets WHERE id = 4') eq '1' }), 'the restored watch works');
$node->safe_psql('restored', q{DROP EXTENSION ia3 CASCADE; CREATE EXTENSION ia3});
is($node->safe_psql('restored', "$waiting; SELECT count(*) FROM ia3.watch_queue"), "0\n0", 'the extension can be dropped while there is a worker');
value("DROP DATABASE $_") for qw(fourth restored);

# --- a standby ---
begin_again();
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
stop_engine();
insert_rows(1, 20);
$node->wait_for_catchup($standby, 'replay', $node->lsn('write'));
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'ia3 watch'}), '0', 'a standby has neither launcher nor worker');
is($standby->safe_psql('postgres', 'SELECT waiting FROM ia3.watch_queue'), '20', 'but the queue');
$node->stop('immediate');
$standby->promote;
ok(wait_until(sub { try_value($waiting, $standby) eq '0' }), 'promoted, it labels the rows');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM tickets WHERE version = 1'), '20', 'all of them');
$standby->stop;

# --- no place for a worker ---
$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmax_logical_replication_workers = 0\n");
$node->append_conf('postgresql.auto.conf', "ia3.backbones = 'default=$Ia3Test::BACKBONE'");
$node->start;
ok(wait_until(sub { slurp_file($node->logfile) =~ /no background worker is free to label the rows of deferred watches/ }), 'without a place for a worker, the log says so');
is(value($waiting), '20', 'the rows wait');
$node->append_conf('postgresql.conf', 'max_worker_processes = 8');
$node->restart;
is_complete('with a place for a worker', 20);

done_testing();
