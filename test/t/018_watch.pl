# Watched tables: batches, beside other sessions, without an engine, after a cancelled statement, in dumps and on a subscriber.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

use constant ROWS => 5000;

my $node = ia3_node('watch', conf => "wal_level = logical\nmax_wal_senders = 4\nmax_replication_slots = 4\nautovacuum = off\n");
create_shots($node);

sub value
{
    return $node->safe_psql('postgres', $_[0]);
}

# The messages of a statement that fails.
sub failure
{
    my ($sql) = @_;
    my ($rc, $out, $err) = $node->psql('postgres', $sql);
    isnt($rc, 0, "fails: $sql");
    return $err;
}

value(q{SELECT ia3_train('topic', 'SELECT text, label FROM shots', steps => 2, seed => 1)});
value(<<'SQL');
CREATE TABLE tickets (id int PRIMARY KEY, body text, topic text, version int);
SELECT ia3_watch('tickets', 'topic', 'body', 'topic', 'version');
SQL

# Whether all rows have the label that belongs to their text.
sub is_labelled
{
    my ($what, $rows) = @_;
    is(value(q{SELECT count(*), count(*) FILTER (WHERE topic = ia3_predict('topic', body) AND version = 1) FROM tickets}),
        "$rows|$rows", "$what: all rows have their labels");
    return;
}

# The rows of one statement are predicted together, as ia3_label does it.
my $counters = q{SELECT rows, batches FROM ia3_stat_engine};
sub count_batches
{
    my ($sql) = @_;
    my ($rows, $batches) = split /\|/, value($counters);
    value($sql);
    my ($rows_after, $batches_after) = split /\|/, value($counters);
    return ($rows_after - $rows, $batches_after - $batches);
}
my $file = PostgreSQL::Test::Utils::tempdir() . '/rows';
append_to_file($file, join '', map { "$_\tticket $_\n" } 1 .. ROWS);
chmod 0644, $file;
my ($rows, $batches) = count_batches("\\copy tickets (id, body) FROM '$file'");
is($rows, ROWS, 'COPY: the engine has predicted each row once');
my ($label_rows, $label_batches) = count_batches(
    q{CREATE TABLE others AS SELECT id, body, NULL::text AS topic FROM tickets; CALL ia3_label('others', 'topic', 'body', 'topic')});
is($label_rows, ROWS, 'ia3_label does so, too');
cmp_ok($batches, '<=', 1.2 * $label_batches + 5, "in about as many batches ($batches, $label_batches)");
cmp_ok($batches, '<', ROWS / 10, 'which are few');
is(value('SELECT count(*) FROM tickets JOIN others USING (id, body, topic)'), ROWS, 'and with the same labels');
($rows) = count_batches(q{UPDATE tickets SET body = CASE WHEN id % 100 = 0 THEN 'another one' || id ELSE body END});
is($rows, ROWS / 100, 'UPDATE: only rows whose input has changed are predicted');
is(value(q{SELECT count(*) FROM tickets WHERE id % 100 = 0 AND topic = ia3_predict('topic', body)}), ROWS / 100, 'and get their labels');
value('TRUNCATE tickets');

# Two sessions: rows that are inserted at the same time, and one row that both update.
my $insert = q{INSERT INTO tickets SELECT i, 'ticket ' || i FROM generate_series(%d, %d) i;};
my @both = (start_query($node, join "\n", map { sprintf $insert, 10 * $_ + 1, 10 * $_ + 10 } 0 .. 19),
    start_query($node, join "\n", map { sprintf $insert, 10 * $_ + 1, 10 * $_ + 10 } 20 .. 39));
is((finish_query($_))[1], '', 'two sessions insert') for @both;
is_labelled('two sessions', 400);
my $other = start_query($node, q{BEGIN; UPDATE tickets SET body = 'first' WHERE id = 1; SELECT pg_sleep(2); COMMIT;});
wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
value(q{UPDATE tickets SET body = body || ' second' WHERE id = 1});
finish_query($other);
is(value(q{SELECT body FROM tickets WHERE id = 1}), 'first second', 'two sessions update a row one after the other');
is_labelled('a row that both update', 400);
$other = start_query($node, q{BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE tickets SET body = 'third' WHERE id = 1; SELECT pg_sleep(2); COMMIT;});
wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
like(failure(q{BEGIN ISOLATION LEVEL SERIALIZABLE; UPDATE tickets SET body = body || ' fourth' WHERE id = 1; COMMIT}),
    qr/could not serialize access/, 'in serializable transactions one of them fails, as without a watch');
finish_query($other);
is_labelled('serializable', 400);

# A statement that is cancelled, or whose engine is killed, leaves nothing behind.
my $slow = q{INSERT INTO tickets SELECT i, repeat('a long text ', 40) || i FROM generate_series(1001, 9000) i;};
my $predicts = q{SELECT max(queue_rows) > 0 FROM ia3_stat_engine};
my $query = start_query($node, $slow);
ok(wait_for_query($node, $predicts), 'a long statement is under way');
value(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ '^INSERT' AND state = 'active'});
like((finish_query($query))[1], qr/57014/, 'it is cancelled');
is_labelled('after a cancelled statement', 400);
ok(wait_until(sub { value(q{SELECT max(queue_rows) FROM ia3_stat_engine}) eq '0' }), 'the engine has nothing left to do');
$query = start_query($node, $slow);
ok(wait_for_query($node, $predicts), 'another long statement is under way');
kill 'KILL', engine_pid($node);
my (undef, $message) = finish_query($query);
like($message, qr/08006.*went away/, 'its engine is killed');
like($message, qr/HINT: .*ia3_unwatch/, 'the hint says what to do');
like($message, qr/CONTEXT: .*watch of column "topic" of table "tickets"/s, 'and the context which watch it is');
ok(wait_until(sub { eval { wait_for_state($node, 'default', 'ready') } }), 'the engine is there again');
is_labelled('after the engine was killed', 400);
value(sprintf $insert, 401, 410);
is_labelled('with a new engine', 410);

# An engine that cannot start.
value(q{ALTER SYSTEM SET ia3.backbones = 'default=/nowhere'});
$node->restart;
wait_for_state($node, 'default', 'failed');
$message = failure(q{INSERT INTO tickets VALUES (500, 'without an engine')});
like($message, qr/could not start/, 'no engine, no INSERT');
like($message, qr/HINT: .*ia3_unwatch/, 'with a hint');
value(q{UPDATE tickets SET id = 500 WHERE id = 410; INSERT INTO tickets VALUES (501, 'by hand', 'technical')});
pass('statements that leave nothing to be labelled need none');
value(q{BEGIN; SELECT ia3_unwatch('tickets'); INSERT INTO tickets VALUES (502, 'without a watch'); ROLLBACK});
pass('nor do tables that are not watched');
value('ALTER SYSTEM RESET ia3.backbones');
$node->restart;
ok(wait_until(sub { eval { wait_for_state($node, 'default', 'ready') } }), 'the engine is there again');
value('DELETE FROM tickets WHERE id = 501');
is_labelled('in the end', 410);

# Dumps. The rows of a whole dump are loaded before there are triggers; those of a dump of data only are labelled if they were not.
value(q{INSERT INTO tickets VALUES (601, 'by hand', 'mine'); ALTER TABLE tickets DISABLE TRIGGER USER;
    INSERT INTO tickets VALUES (602, 'without a label'); ALTER TABLE tickets ENABLE TRIGGER USER;
    CREATE DATABASE restored});
mkdir $node->backup_dir;
my $dump = $node->backup_dir . '/watch.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'pg_dump');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('restored'), $dump ], 'pg_restore');
my $all = q{SELECT string_agg(t::text, ' ' ORDER BY id) FROM tickets t};
is($node->safe_psql('restored', $all), value($all), 'all rows are as they were');
my $definitions = q{SELECT string_agg(pg_get_triggerdef(oid), ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'tickets'::regclass};
is($node->safe_psql('restored', $definitions), value($definitions), 'and the triggers');
is( $node->safe_psql('restored', q{INSERT INTO tickets VALUES (700, 'my card'); SELECT topic = ia3_predict('topic', body), version FROM tickets WHERE id = 700}),
    't|1', 'which work');
my $rest = q{SELECT topic, version FROM tickets WHERE id > 600 ORDER BY id};
$node->safe_psql('restored', 'TRUNCATE tickets');
$node->command_ok([ 'pg_restore', '--data-only', '-t', 'tickets', '--disable-triggers', '-d', $node->connstr('restored'), $dump ],
    'pg_restore --data-only --disable-triggers');
is($node->safe_psql('restored', $rest), "mine|\n|", 'labels nothing');
$node->safe_psql('restored', 'TRUNCATE tickets');
$node->command_ok([ 'pg_restore', '--data-only', '-t', 'tickets', '-d', $node->connstr('restored'), $dump ], 'pg_restore --data-only');
like($node->safe_psql('restored', $rest), qr/^mine\|\n\w+\|1$/, 'labels the rows without a label');
is($node->safe_psql('restored', q{SELECT ia3_unwatch('tickets'); SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tickets'::regclass}), "\n0",
    'the watch can be ended there');

# A role that owns nothing of this but the table can restore it if it may execute the trigger function.
value(q{CREATE ROLE keeper LOGIN; CREATE DATABASE kept OWNER keeper});
$node->safe_psql('kept', q{CREATE EXTENSION ia3});
my $sql = $node->backup_dir . '/tickets.sql';
$node->command_ok([ 'pg_dump', '-x', '-O', '-t', 'tickets', '-f', $sql, '-d', $node->connstr('postgres') ], 'pg_dump of the table');
$node->safe_psql('kept', 'GRANT ALL ON SCHEMA public TO keeper');
my ($out, $err);
IPC::Run::run([ 'psql', '-XqU', 'keeper', '-d', $node->connstr('kept'), '-f', $sql ], '<', \undef, '>', \$out, '2>', \$err);
like($err, qr/permission denied for function ia3.watch_changes/, 'the owner of a table may not create the triggers');
$node->safe_psql('kept', 'DROP TABLE tickets; GRANT EXECUTE ON FUNCTION ia3.watch_changes TO keeper');
$node->command_ok([ 'psql', '-XqU', 'keeper', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('kept'), '-f', $sql ], 'unless that is granted');

# A subscriber: the rows of the first copy fire the triggers, if they are enabled there; what is applied later fires none for statements.
my $subscriber = ia3_node('subscriber', conf => "max_logical_replication_workers = 4\n");
create_shots($subscriber);
$subscriber->safe_psql('postgres', q{SELECT ia3_train('topic', 'SELECT text, label FROM shots', steps => 2, seed => 1);
    CREATE TABLE notes (id int PRIMARY KEY, body text, topic text);
    SELECT ia3_watch('notes', 'topic', 'body', 'topic');
    ALTER TABLE notes ENABLE ALWAYS TRIGGER ia3_watch_topic_insert, ENABLE ALWAYS TRIGGER ia3_watch_topic_update});
value(q{CREATE TABLE notes (id int PRIMARY KEY, body text); INSERT INTO notes VALUES (1, 'copied'); CREATE PUBLICATION notes FOR TABLE notes});
$subscriber->safe_psql('postgres', q{CREATE SUBSCRIPTION notes CONNECTION $$} . $node->connstr('postgres') . q{$$ PUBLICATION notes});
my $copied = q{SELECT count(*) = 1 FROM pg_subscription_rel WHERE srsubstate = 'r'};
ok(wait_for_query($subscriber, $copied), 'a subscriber has copied the table');
is($subscriber->safe_psql('postgres', q{SELECT topic = ia3_predict('topic', body) FROM notes}), 't', 'and labelled its rows');
value(q{INSERT INTO notes VALUES (2, 'applied')});
ok(wait_for_query($subscriber, 'SELECT count(*) = 2 FROM notes'), 'it applies an INSERT');
is($subscriber->safe_psql('postgres', q{SELECT topic IS NULL FROM notes WHERE id = 2}), 't', 'which fires no statement trigger');
$subscriber->safe_psql('postgres', q{CALL ia3_label('notes', 'topic', 'body', 'topic')});
is($subscriber->safe_psql('postgres', q{SELECT bool_and(topic = ia3_predict('topic', body)) FROM notes}), 't', 'ia3_label labels it');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION notes');

done_testing();
