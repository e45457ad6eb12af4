# ia3_label beside other sessions, and after interruptions: every row gets its label, once, from the version that was active when
# the procedure began.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Ia3Test;

use constant ROWS => 1200;

my $node = ia3_node('label');
create_shots($node);

sub value
{
    return $node->safe_psql('postgres', $_[0]);
}

value(q{SELECT ia3_train('topic', 'SELECT text, label FROM shots', steps => 2, seed => 1)});
value(<<'SQL' =~ s/ROWS/ROWS/er);
CREATE TABLE tickets (id int PRIMARY KEY, body text, topic text, version int);
INSERT INTO tickets SELECT i, 'ticket ' || i FROM generate_series(1, ROWS) i;
CREATE TABLE log (id int, xid xid8 DEFAULT pg_current_xact_id());
CREATE FUNCTION log_label() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO log VALUES (NEW.id); RETURN NEW; END';
CREATE TRIGGER log_label AFTER UPDATE OF topic ON tickets FOR EACH ROW EXECUTE FUNCTION log_label();
SQL

# How much has been committed.
sub labelled
{
    return value('SELECT count(*) FROM tickets WHERE version IS NOT NULL');
}

sub begin_again
{
    value('UPDATE tickets SET topic = NULL, version = NULL; TRUNCATE log');
    value('VACUUM FULL tickets');
    return;
}

# A call that takes about a millisecond a row.
my $call = q{CALL ia3_label('tickets', 'topic', 'body || pg_sleep(0.001)::text', 'topic', 'version', commit_rows => 100)};

sub is_complete
{
    my ($what) = @_;
    is(value('SELECT count(*), count(DISTINCT id) FROM log'), ROWS . '|' . ROWS, "$what: each row was labelled once");
    is(value(q{SELECT count(*) FROM tickets t WHERE version = 1 AND topic = ia3_predict('topic@1', body)}), ROWS,
        "$what: all have their label and the version");
    return;
}

# Rows that others have locked are waited for, at the end.
my $other = start_query($node,
    q{BEGIN; UPDATE tickets SET body = body || ' changed' WHERE id IN (5, 1000); SELECT pg_sleep(600); COMMIT;});
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND wait_event = 'PgSleep'}),
    'another session has locked two rows');
my $labelling = start_query($node, $call);
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^CALL' AND wait_event = 'transactionid'}),
    'the procedure waits for it');
is(labelled(), ROWS - 2, 'when everything else is committed');
value(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'});
finish_query($other);
my ($out, $err) = finish_query($labelling);
is($out, ROWS . "\n", 'then all rows are labelled') or diag $err;
is_complete('locked rows');

# The same when the other session commits: the row is predicted as it is then, or, if it has moved, by the next call.
begin_again();
$other = start_query($node,
    q{BEGIN; UPDATE tickets SET body = 'something else' WHERE id = 5; SELECT pg_sleep(2); COMMIT;});
wait_for_query($node, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND wait_event = 'PgSleep'});
value($call);
finish_query($other);
value($call);
is_complete('a changed row');

# Two sessions.
begin_again();
my @both = map { start_query($node, $call) } 1 .. 2;
my @counts = map { my ($o, $e) = finish_query($_); chomp $o; $o } @both;
is($counts[0] + $counts[1], ROWS, "two sessions share the rows (@counts)");
is_complete('two sessions');

# Another version becomes active in the middle.
begin_again();
$labelling = start_query($node, $call);
ok(wait_until(sub { labelled() > 0 }), 'the procedure commits on the way');
value(q{SELECT ia3_train('topic', 'SELECT text, label FROM shots', steps => 1, seed => 2)});
cmp_ok(labelled(), '<', ROWS, 'a new version is active in the middle');
is( value(q{SELECT task, relid::regclass, rows_labelled > 0, blocks_done BETWEEN 1 AND blocks_total, usename = current_user FROM ia3_stat_progress_label}),
    'topic@1|tickets|t|t|t', 'progress is visible');
value('CREATE ROLE other');
is( $node->safe_psql('postgres', q{SET ROLE other; SELECT pid > 0, task IS NULL, rows_labelled IS NULL FROM ia3_stat_progress_label}),
    't|t|t', 'to others less of it');
finish_query($labelling);
is(value('SELECT count(*) FROM ia3_stat_progress_label'), '0', 'until the end');
is_complete('a new version');
value(q{SELECT ia3_activate('topic', 1)});

# The call is cancelled, its backend is terminated, the engine dies, the server stops: what is committed stays, the rest follows.
sub interrupted
{
    my ($what, $how, $error) = @_;
    begin_again();
    my $query = start_query($node, $call);
    ok(wait_until(sub { labelled() > 0 }), "$what: some rows are committed");
    $how->();
    my (undef, $message) = finish_query($query);
    like($message, $error, "$what: the call ends with an error, or goes on");
    ok(wait_until(sub { eval { wait_for_state($node, 'default', 'ready') } }), "$what: the engine is there again");
    my $n = labelled();
    ok($n > 0 && ($n < ROWS || $message eq ''), "$what: $n rows have been labelled");
    is(value('SELECT count(*) FROM log'), $n, "$what: nothing else has been changed");
    is(value('SELECT count(*) FROM ia3_stat_progress_label'), '0', "$what: no progress is shown");
    is(value(q{SELECT count(*) FROM pg_locks WHERE relation = 'tickets'::regclass}), '0', "$what: no lock remains");
    value($call);
    is_complete($what);
    return;
}
my $pid = q{(SELECT pid FROM pg_stat_activity WHERE query ~ '^CALL')};
interrupted('cancelled', sub { value("SELECT pg_cancel_backend($pid)") }, qr/57014/);
interrupted('terminated', sub { value("SELECT pg_terminate_backend($pid)") }, qr/57P01|connection/);
# between two requests its end is not noticed: the next one waits until it is there again
interrupted('engine killed', sub { kill 'KILL', engine_pid($node) }, qr/08006|^$/);
interrupted('server restarted', sub { $node->stop('immediate'); $node->start }, qr/connection|57P0[12]/);

# The type of a column changes between two transactions of the procedure.
begin_again();
my $plain = q{CALL ia3_label('tickets', 'topic', 'body', 'topic', 'version', commit_rows => 100%s)};
$labelling = start_query($node, sprintf $plain, q{, condition => 'pg_sleep(0.001) IS NOT NULL'});
ok(wait_until(sub { labelled() > 0 }), 'some rows are committed');
value('ALTER TABLE tickets ALTER body TYPE bigint USING id');
finish_query($labelling);
value(sprintf $plain, '');
is(value(q{SELECT count(*) FROM tickets WHERE version = 1 AND topic IS NOT NULL}), ROWS, 'a column of another type: all rows have labels');

done_testing();
