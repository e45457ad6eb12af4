# Training and waiting react to cancellation, timeouts and termination, and leave nothing behind.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use Ia3Test;

my $node = ia3_node('interrupt');
create_shots($node);

my $postmaster = postmaster_pid($node);
my $classify = q{SELECT choice FROM ia3_classify('the app crashes', ARRAY['billing', 'technical']) WHERE rank = 1};
my $answer = $node->safe_psql('postgres', $classify);

# However a training run has ended, there is no progress row, no job and no version, and the engine is the same.
my $engine = engine_pid($node);

sub nothing_left
{
    my ($what) = @_;
    is($node->safe_psql('postgres', 'SELECT count(*) FROM ia3_stat_progress_train'), '0',
        "$what leaves no progress row");
    ok( wait_for_query($node, 'SELECT train_jobs = 0 FROM ia3_stat_engine'),
        "$what leaves no job in the engine");
    is($node->safe_psql('postgres', 'SELECT count(*) FROM ia3.adapters'), '0', "$what leaves no version");
    is(engine_pid($node), $engine, "$what does not hurt the engine");
    return;
}

# What is shown while a run is in progress.
my $query = start_query($node, "$Ia3Test::ENDLESS;\n$classify;\n");
ok(wait_for_training($node), 'training runs');
my $backend = backend_of($node);
is( $node->safe_psql('postgres', q{SELECT task, steps, step BETWEEN 1 AND steps, loss > 0, rows_per_second > 0,
        seconds_left > 0 FROM ia3_stat_progress_train}),
    'endless|1000000|t|t|t|t', 'progress is shown');
is($node->safe_psql('postgres', 'SELECT train_jobs FROM ia3_stat_engine'), '1', 'the engine counts the job');
$node->safe_psql('postgres', 'CREATE ROLE other LOGIN');
is($node->safe_psql('postgres', q{SET ROLE other; SELECT pid > 0, task IS NULL, step IS NULL FROM ia3_stat_progress_train}),
    't|t|t', 'others see that something is trained, but not what');
is($node->safe_psql('postgres', $classify), $answer, 'meanwhile others are served');

# pg_cancel_backend.
my $started = time;
$node->safe_psql('postgres', "SELECT pg_cancel_backend($backend)");
my ($out, $err) = finish_query($query);
cmp_ok(time - $started, '<', 5, 'cancel works at once');
like($err, qr/57014: canceling statement due to user request/, 'cancel is reported');
is($out, "$answer\n", 'the session lives on');
nothing_left('cancel');

# statement_timeout.
$started = time;
($out, $err) = finish_query(start_query($node,
    "SET statement_timeout = '1s';\n$Ia3Test::ENDLESS;\nRESET statement_timeout;\n"
        . "SELECT count(*) FROM ia3_stat_progress_train;\n$classify;\n"));
like($err, qr/57014: canceling statement due to statement timeout/, 'statement_timeout is reported');
cmp_ok(time - $started, '<', 10, 'in time');
is($out, "0\n$answer\n", 'the session lives on and shows no training any more');
nothing_left('statement_timeout');

# An error caught in a subtransaction.
($out, $err) = finish_query(start_query($node, qq{
    SET client_min_messages = error;
    SET statement_timeout = '1s';
    DO \$\$
    BEGIN
        BEGIN
            PERFORM ia3_train('endless', 'SELECT text, label FROM shots', steps => 1000000, seed => 1);
        EXCEPTION WHEN query_canceled THEN
            PERFORM set_config('ia3_test.caught', sqlerrm, false);
        END;
        FOR i IN 1 .. 100 LOOP
            EXIT WHEN (SELECT train_jobs = 0 FROM ia3_stat_engine);
            PERFORM pg_sleep(0.05);
        END LOOP;
        PERFORM set_config('ia3_test.jobs', (SELECT train_jobs::text FROM ia3_stat_engine), false);
        PERFORM set_config('ia3_test.left', (SELECT count(*)::text FROM ia3_stat_progress_train), false);
        PERFORM set_config('ia3_test.answer', ia3_predict('the app crashes', ARRAY['billing', 'technical']), false);
    END \$\$;
    SELECT current_setting('ia3_test.caught'), current_setting('ia3_test.jobs'), current_setting('ia3_test.left'),
        current_setting('ia3_test.answer');
}));
is($err, '', 'the error is caught');
is($out, "canceling statement due to statement timeout|0|0|$answer\n", 'the engine stops at once, and the rest of the transaction can use it');
nothing_left('a caught error');

# A rollback after success.
$node->safe_psql('postgres', q{BEGIN; SELECT ia3_train('rolled', 'SELECT text, label FROM shots', steps => 2); ROLLBACK});
nothing_left('a rollback');

# pg_terminate_backend.
$query = start_query($node, $Ia3Test::ENDLESS);
ok(wait_for_training($node), 'training runs');
$backend = backend_of($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($backend)");
($out, $err) = finish_query($query);
like($err, qr/terminating connection due to administrator command/, 'a terminated backend');
nothing_left('a terminated backend');

# The client disconnects.
$query = start_query($node, "SET client_connection_check_interval = '100ms';\n$Ia3Test::ENDLESS");
ok(wait_for_training($node), 'training runs');
$query->{run}->kill_kill;
ok(wait_for_query($node, 'SELECT count(*) = 0 FROM ia3_stat_progress_train'), 'a lost client ends it');
nothing_left('a lost client');

# DROP DATABASE works while another database trains: the supervisor does not block it.
$node->safe_psql('postgres', 'CREATE DATABASE victim');
$node->safe_psql('victim', 'CREATE EXTENSION ia3');
is($node->safe_psql('victim', $classify), $answer, 'another database uses the same engine');
$query = start_query($node, $Ia3Test::ENDLESS);
ok(wait_for_training($node), 'training runs');
$backend = backend_of($node);
$started = time;
$node->safe_psql('postgres', 'DROP DATABASE victim');
cmp_ok(time - $started, '<', 10, 'DROP DATABASE does not hang');
is(backend_of($node), $backend, 'the training goes on');

# Waiting for an engine that is not ready can be canceled, too.
$node->safe_psql('postgres', "SELECT pg_cancel_backend($backend)");
finish_query($query);
nothing_left('cancel');
kill 'STOP', $engine;
$started = time;
($out, $err) = finish_query(start_query($node, "SET statement_timeout = '500ms';\n$classify;\n"));
like($err, qr/57014: canceling statement due to statement timeout/, 'an engine that hangs does not hang its queries');
cmp_ok(time - $started, '<', 5, 'in time');
kill 'CONT', $engine;
is($node->safe_psql('postgres', $classify), $answer, 'and later it answers');

is(postmaster_pid($node), $postmaster, 'all this without a restart of the server');
$node->stop;

done_testing();
