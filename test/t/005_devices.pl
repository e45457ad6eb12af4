# Several engines for one backbone: requests are distributed, the death of an engine is tolerated, devices are added and
# removed.

use strict;
use warnings;

use File::Copy qw(copy);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use Ia3Test;

my $node = ia3_node('devices', conf => "ia3.threads = 1\nmax_connections = 150\n");
create_shots($node);

my $models = PostgreSQL::Test::Utils::tempdir();
mkdir "$models/a" or die "mkdir: $!";
copy($_, "$models/a/") or die "copy: $!" for glob "$Ia3Test::BACKBONE/*";

sub value
{
    my ($sql) = @_;
    return $node->safe_psql('postgres', $sql);
}

sub configure
{
    my ($list) = @_;
    $node->safe_psql('postgres', "ALTER SYSTEM SET ia3.backbones = '$list'");
    $node->reload;
    return;
}

# Returns device and state of all engines.
sub engines
{
    return value(q{SELECT string_agg(device || ' ' || state, ', ' ORDER BY device, state) FROM ia3_stat_engine});
}

sub wait_for_engines
{
    my ($expected, $name) = @_;
    my $seen;
    return if ok(wait_until(sub { ($seen = engines()) eq $expected }), $name);
    diag("engines: $seen, expected: $expected");
    return;
}

sub pids
{
    my ($more) = @_;
    $more //= 'true';
    return split /\n/, value("SELECT pid FROM ia3_stat_engine WHERE pid IS NOT NULL AND $more ORDER BY pid");
}

# An engine that ends often is restarted late, unless the configuration is reloaded after the supervisor has noticed.
sub come_back
{
    my (@dead) = @_;
    ok(wait_until(sub { my %now = map { $_ => 1 } pids(); !grep { $now{$_} } @dead }), 'their end is noticed');
    $node->reload;
    return;
}

# Runs each statement in a session of its own, all at once; pgbench stops at an error.
sub start_load
{
    my ($sessions, $statement, @options) = @_;
    my $load = { dir => PostgreSQL::Test::Utils::tempdir() };
    append_to_file("$load->{dir}/script", "\\set i random(1, 1000000)\n$statement;\n");
    $load->{run} = IPC::Run::start(
        [ 'pgbench', '-n', '-c', $sessions, '-j', '2', @options, '-f', "$load->{dir}/script", $node->connstr('postgres') ],
        '<', '/dev/null', '>', "$load->{dir}/out", '2>', "$load->{dir}/err", IPC::Run::timeout(300));
    return $load;
}

# Stops the load or, if $finish is set, waits for its end; returns its errors, but for those that match $allowed.
sub stop_load
{
    my ($load, $finish, $allowed) = @_;
    my $alive = $load->{run}->pumpable;
    $finish ? $load->{run}->finish : $load->{run}->kill_kill(grace => 5);
    my @errors = grep { /ERROR|aborted|FATAL|error/ } split /^/, slurp_file("$load->{dir}/err");
    return join '', grep { !$allowed || !/$allowed/ } @errors if @errors;
    return !$alive && !$finish ? 'it has ended' : '';
}

my $ASK = q{SELECT ia3_predict('t', 'the app crashes when I open page ' || :i)};

# The answers of a task, bit for bit.
my $ANSWERS = q{
    SELECT md5(string_agg(i || c.choice || c.score, ',' ORDER BY i, c.rank))
      FROM generate_series(1, 300) i, ia3_classify('t', 'page ' || i || ' does not load, and I was charged ' || i * i) c};

# Runs statements in one session with VERBOSITY verbose.
sub session
{
    my ($sql) = @_;
    return finish_query(start_query($node, $sql));
}

#
# One engine and two engines give the same answers.
#
my $train = q{SELECT ia3_train('%s', 'SELECT text, label FROM shots', steps => 5, seed => 1)};
value(sprintf $train, 't');
value(q{
    CREATE TABLE asks AS SELECT i, 'page ' || i || ' does not load' AS body FROM generate_series(1, 500) i;
    ALTER TABLE asks SET (parallel_workers = 2);
    ANALYZE asks});
my $answers = value($ANSWERS);
my %others = (
    'parallel workers' => q{SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
        SELECT md5(string_agg(score, ',' ORDER BY score)) FROM (SELECT i, (SELECT score::text FROM ia3_classify('t', body) WHERE rank = 1) AS score FROM asks) x},
    'generated texts' => q{SELECT md5(string_agg(ia3_generate('t', body, 5), ',' ORDER BY i)) FROM asks WHERE i <= 30},
    'an evaluation' => q{SELECT n, accuracy, macro_f1, mean_score_gap FROM ia3_evaluate('t', 'SELECT text, label FROM shots')});
my %alone = map { $_ => value($others{$_}) } keys %others;
like(value("$others{'parallel workers'}" =~ s/SELECT md5/EXPLAIN SELECT md5/r), qr/Workers Planned: 2/, 'a plan with workers');
my ($first) = pids();
configure("default=$Ia3Test::BACKBONE\@cpu|cpu");
wait_for_engines('cpu ready, cpu ready', 'a device is added');
ok(process_runs($first), 'the first engine stays');
is(value(q{SELECT count(DISTINCT pid), count(DISTINCT backbone_digest), count(DISTINCT bytes) FROM ia3_stat_engine}), '2|1|1',
    'each engine has its row');
for my $i (1 .. 3)
{
    is(value($ANSWERS), $answers, 'two engines answer as one does');
}
is(value($others{$_}), $alone{$_}, "so do $_") for sort keys %others;
is(value(sprintf $train, 'u'), '1', 'a training');
is(value(q{SELECT count(DISTINCT digest) FROM ia3.adapter}), '1', 'with the same result');
# each segment may be trained by a different engine
value(q{CALL ia3_pretrain('p', 'SELECT ''shots'' AS task, text, label FROM shots', steps => 30, seed => 1, checkpoint_every => } . "$_)") for 5, 30;
is(value(q{SELECT count(*), count(DISTINCT digest) FROM ia3.adapter WHERE task = 'p'}), '2|1', 'a pre-training in pieces');

#
# Load is distributed, over sessions and within one statement.
#
my @rows = map { "(SELECT rows FROM ia3_stat_engine WHERE pid = $_)" } pids();
my $before = value("SELECT least($rows[0], $rows[1])");
my $load = start_load(64, $ASK, '-t', '10');
is(stop_load($load, 1), '', '64 sessions');
my ($few, $many) = split /\|/, value("SELECT least($rows[0], $rows[1]) - $before, greatest($rows[0], $rows[1])");
cmp_ok($few, '>', 640 / 4, 'both engines have answered them');
$before = value("SELECT least($rows[0], $rows[1])");
value(q{SET ia3.batch_rows = 32; SELECT count(ia3_predict('t', 'one ' || i)) FROM generate_series(1, 640) i});
cmp_ok(value("SELECT least($rows[0], $rows[1])"), '>', $before, 'so have they the batches of one statement');
is(value('SELECT min(queue_rows), max(queue_rows), max(train_jobs) FROM ia3_stat_engine'), '0|0|0', 'nothing is left');

# A training run goes to the engine with the fewest of them, and predictions to the other engine.
my @trainings = map { start_query($node, $Ia3Test::ENDLESS =~ s/endless/endless $_/r . ";\n") } 1 .. 2;
ok(wait_for_query($node, q{SELECT count(*) = 2 FROM ia3_stat_progress_train WHERE step > 0}), 'two trainings');
is(value('SELECT min(train_jobs), max(train_jobs) FROM ia3_stat_engine'), '1|1', 'each engine has one');
is(value('SELECT min(outstanding), max(outstanding) FROM ia3_stat_engine'), '16384|16384', 'which counts like a batch');
value(q{SELECT pg_cancel_backend(pid) FROM ia3_stat_progress_train WHERE task = 'endless 1'});
finish_query($trainings[0]);
ok(wait_for_query($node, 'SELECT min(train_jobs) = 0 FROM ia3_stat_engine'), 'one is cancelled');
my ($idle) = pids('train_jobs = 0');
my $asked = value("SELECT rows FROM ia3_stat_engine WHERE pid = $idle");
value(qq{SELECT ia3_predict('t', 'question $_')}) for 1 .. 6;
is(value("SELECT rows - $asked FROM ia3_stat_engine WHERE pid = $idle"), 6, 'who trains is not asked');
# a session that is killed leaves no load behind: its engine is used again
kill 'TERM', value(q{SELECT pid FROM ia3_stat_progress_train});
finish_query($trainings[1]);
ok(wait_for_query($node, 'SELECT max(train_jobs) = 0 FROM ia3_stat_engine'), 'the other is killed');
my @after = map { start_query($node, $Ia3Test::ENDLESS =~ s/endless/more $_/r . ";\n") } 1 .. 2;
ok(wait_for_query($node, q{SELECT count(*) = 2 FROM ia3_stat_progress_train WHERE step > 0}), 'two more trainings');
is(value('SELECT min(train_jobs), max(train_jobs) FROM ia3_stat_engine'), '1|1', 'are spread again');
value(q{SELECT pg_terminate_backend(pid) FROM ia3_stat_progress_train});
finish_query($_) for @after;

#
# Nothing stays outstanding, however a statement ends: by timeouts, caught errors, abandoned cursors, killed sessions.
#
value(q{
    CREATE FUNCTION ask_and_fail(i int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
        PERFORM ia3_predict('t', 'given up ' || i || ' ' || j) || (10 / (j - 40)) FROM generate_series(1, 100) j;
    EXCEPTION WHEN division_by_zero OR query_canceled THEN NULL;
    END $$});
my @endings = (
    q{SET statement_timeout = 7; SELECT ask_and_fail(:i)}, q{SELECT ask_and_fail(:i)},
    q{BEGIN; DECLARE c CURSOR FOR SELECT ia3_predict('t', :i || ' ' || j) FROM generate_series(1, 1000) j; FETCH 3 FROM c; ROLLBACK});
my @loads = map { start_load(4, $_, '-T', '60') } @endings;
ok(wait_until(sub { value('SELECT sum(outstanding) > 0 FROM ia3_stat_engine') eq 't' }), 'what is outstanding is shown');
sleep 2;
# on a busy machine the timeout may come before the function has begun, or after it; pgbench then gives up
is(stop_load($_, 0, qr/canceling statement due to statement timeout|Run was aborted/), '', 'they go on') for @loads;
my @killed = map { start_query($node, $_) } (qq{SELECT ia3_predict('t', 'long ' || i) FROM generate_series(1, 100000) i;\n}) x 4;
ok(wait_for_query($node, q{SELECT count(*) = 4 FROM pg_stat_activity WHERE query ~ '^SELECT ia3_predict'}), 'long queries');
value(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^SELECT ia3_predict'});
finish_query($_) for @killed;
ok(wait_for_query($node, 'SELECT sum(outstanding) = 0 AND sum(queue_rows) = 0 FROM ia3_stat_engine'), 'nothing stays outstanding');

# An adapter is sent to the engine that lacks it.
configure("default=$Ia3Test::BACKBONE\@cpu|cpu|cpu");
wait_for_engines('cpu ready, cpu ready, cpu ready', 'a third device');
$load = start_load(12, $ASK, '-t', '20');
is(stop_load($load, 1), '', 'no engine is asked in vain for an adapter it has not seen');
is(value('SELECT count(*) FROM ia3_stat_engine WHERE cached_adapters > 0'), '3', 'each engine holds it');
is(value(q{SET ia3.batch_rows = 8; } . $ANSWERS), $answers, 'batches of one statement over three engines: the same answers');

#
# If one engine dies, the others continue, and it is restarted.
#
configure("default=$Ia3Test::BACKBONE\@cpu|cpu");
wait_for_engines('cpu ready, cpu ready', 'a device is taken away');
is(value($ANSWERS), $answers, 'the others answer');
my @engines = pids();
# the supervisor cannot notice for a while
my $supervisor = supervisor_pid($node);
kill 'STOP', $supervisor;
kill 'KILL', $engines[0];
ok(wait_until(sub { !process_runs($engines[0]) }), 'an engine is killed');
my $started = time;
is(value(q{SELECT count(ia3_predict('t', 'the app crashes'))}), 1, "statement $_ goes to the other") for 1 .. 4;
cmp_ok(time - $started, '<', 20, 'at once');
is(value($ANSWERS), $answers, 'with the same answers');
kill 'CONT', $supervisor;
ok(wait_until(sub { my @now = pids("state = 'ready'"); @now == 2 && $now[0] ne $engines[0] && $now[1] ne $engines[0] }),
    'the killed one comes back');
ok(process_runs($engines[1]), 'the other is still the same');
is(value('SELECT sum(restarts) FROM ia3_stat_engine'), 1, 'one restart');

# If two of three engines die unnoticed, each statement finds the third one, whatever its position.
configure("default=$Ia3Test::BACKBONE\@cpu|cpu|cpu");
for my $survivor (0 .. 2)
{
    ok(wait_until(sub { scalar(pids("state = 'ready'")) == 3 }), 'three engines');
    my @dead = pids();
    my ($alive) = splice @dead, $survivor, 1;
    kill 'STOP', $supervisor;
    kill 'KILL', @dead;
    ok(wait_until(sub { !grep { process_runs($_) } @dead }), 'two are killed');
    is(value(q{SET ia3.start_timeout = '2s'; SELECT count(ia3_predict('t', 'who is there'))}), 1, "number $survivor answers");
    ok(process_runs($alive), 'as before');
    kill 'CONT', $supervisor;
    come_back(@dead);
}
ok(wait_until(sub { scalar(pids("state = 'ready'")) == 3 }), 'all come back');

# If an engine runs but does not answer, sessions use the other one, and remember this.
configure("default=$Ia3Test::BACKBONE\@cpu|cpu");
wait_for_engines('cpu ready, cpu ready', 'two engines');
for my $stopped (pids())
{
    kill 'STOP', $stopped;
    $started = time;
    is(value("SELECT ia3_predict('t', 'question $_') IS NOT NULL; " x 3), "t\nt\nt", 'one engine does not answer: the other does')
        for 1 .. 2;
    is(value($ANSWERS), $answers, 'so it does to a batch');
    cmp_ok(time - $started, '<', 15, 'soon');
    kill 'CONT', $stopped;
}
kill 'STOP', pids();
like((session(q{SET ia3.start_timeout = '1s'; SELECT ia3_predict('t', 'nobody');} . "\n"))[1],
    qr/ERROR:  57P03: ia3 engine for backbone "default" does not answer/, 'neither does: an error');
kill 'CONT', split /\n/, value('SELECT pid FROM ia3_stat_engine');
is(value($ANSWERS), $answers, 'both go on');

# The requests that it had received are lost, as with one engine; the sessions continue.
@trainings = map { start_query($node, $Ia3Test::ENDLESS =~ s/endless/lost $_/r . ";\nSELECT ia3_predict('t', 'next') IS NOT NULL;\n") } 1 .. 2;
ok(wait_for_query($node, q{SELECT count(*) = 2 FROM ia3_stat_progress_train WHERE step > 0}), 'two trainings');
@engines = pids();
kill 'KILL', $engines[0];
ok(wait_for_query($node, q{SELECT count(*) = 1 FROM ia3_stat_progress_train}), 'one engine is killed');
my ($goes_on) = value(q{SELECT task FROM ia3_stat_progress_train}) =~ /(\d)/;
my ($out, $err) = finish_query($trainings[2 - $goes_on]);
like($err, qr/ERROR:  08006: ia3 engine for backbone "default" went away/, 'the statement in flight fails');
is($out, "t\n", 'the next statement of its session does not');
value(q{SELECT pg_cancel_backend(pid) FROM ia3_stat_progress_train});
($out, $err) = finish_query($trainings[$goes_on - 1]);
like($err, qr/ERROR:  57014/, 'the other training went on until it was cancelled');
ok(wait_until(sub { scalar(pids("state = 'ready'")) == 2 }), 'both are there again');
is(value('SELECT max(outstanding) FROM ia3_stat_engine'), '0', 'with nothing outstanding');

# The name of an engine in the server log follows the list: a single engine is called without its device.
configure("default=$Ia3Test::BACKBONE\@cpu");
ok(wait_until(sub { pids() == 1 }), 'one device is left');
for my $case ([ "default=$Ia3Test::BACKBONE\@cpu", 'default' ], [ "default=$Ia3Test::BACKBONE\@cpu|cpu", 'default@cpu' ])
{
    my ($list, $label) = @$case;
    my ($stays) = pids();
    configure($list);
    ok(wait_until(sub { scalar(pids("state = 'ready'")) == 1 + ($list =~ /\|/) }), "now $list");
    kill 'KILL', $stays;
    ok(wait_until(sub { slurp_file($node->logfile) =~ /WARNING:  ia3 engine "$label" \(PID $stays\) was terminated/ }),
        "the log calls its engine $label");
    come_back($stays);
    ok(wait_until(sub { scalar(pids("state = 'ready'")) == 1 + ($list =~ /\|/) }), 'it comes back');
}

# If both die under load, waiting statements get an error, and then all is as before. The statements take long, so that
# some of them are waiting.
$load = start_load(4, q{SELECT count(ia3_predict('t', 'page ' || :i || ' ' || j)) FROM generate_series(1, 2000) j}, '-T', '60');
ok(wait_until(sub { value('SELECT min(rows) > 20 FROM ia3_stat_engine') eq 't' }), 'queries run');
kill 'KILL', pids();
$load->{run}->finish;
like(stop_load($load, 1), qr/went away/, 'both engines are killed: queries that were under way fail');
is(value($ANSWERS), $answers, 'the next ones wait and are answered');
wait_for_engines('cpu ready, cpu ready', 'both engines are back');

#
# Changes of the list under load.
#
$load = start_load(6, $ASK, '-T', '300');
for my $change (
    [ "default=$Ia3Test::BACKBONE\@cpu|cpu|cpu|cpu", 4, 2 ], [ "default=$Ia3Test::BACKBONE\@cpu", 1, 1 ],
    # with another path or dtype all engines are replaced at the same time
    [ "default=$models/a\@cpu|cpu", 2, 0 ], [ "default=$models/a\@cpu|cpu:float32", 2, 0 ],
    [ "default=$Ia3Test::BACKBONE\@cpu|cpu", 2, 0 ])
{
    my ($list, $n, $stay) = @$change;
    my %old = map { $_ => 1 } pids();
    configure($list);
    # Two lists may look the same in the view, so that only the processes tell that the change has been noticed.
    ok(wait_until(sub { scalar(grep { $old{$_} } pids()) == $stay }), "$list: $stay engines go on");
    wait_for_engines(join(', ', ('cpu ready') x $n), 'and all are ready');
    ok(wait_until(sub { value('SELECT count(*) FROM ia3_stat_engine WHERE rows >= 5') == $n }), 'all are used');
}
is(stop_load($load), '', 'no query has failed');
is(value($ANSWERS), $answers, 'and the answers are the old ones');
my %seen = map { $_ => 1 } pids();

# A training run continues in an engine whose device is removed from the list.
my $steady = start_query($node, sprintf($train =~ s/steps => 5/steps => 60/r, 'moved') . ";\n");
ok(wait_for_training($node), 'a training runs');
my ($trains) = pids('train_jobs = 1');
my ($asks) = pids('train_jobs = 0');
configure("default=$models/a\@cpu");
wait_for_engines('cpu draining, cpu ready', 'its engine drains');
($out, $err) = finish_query($steady);
is($out, "1\n", 'and ends what it was asked');
wait_for_engines('cpu ready', 'then it leaves');

#
# A device that does not exist.
#
my $gpu = (grep { -e } '/dev/nvidia0', '/dev/dxg') ? 'this machine has a GPU' : '';
SKIP: {
    skip $gpu, 12 if $gpu;
    configure("default=$models/a\@cuda");
    ok(wait_until(sub { engines() eq 'cpu ready, cuda:0 failed' }), 'a device that is not there fails');
    like(value(q{SELECT message FROM ia3_stat_engine WHERE state = 'failed'}), qr/cuda|CUDA/, 'and is named');
    is(value($ANSWERS), $answers, 'the old engine answers');
    configure("gpu=$models/a\@cuda:1:float32, gpus=$models/a\@cuda:0|cuda:1");
    for my $backbone ('gpu', 'gpus')
    {
        ($out, $err) = session("SET ia3.backbone = '$backbone';\nSELECT ia3_predict('text', ARRAY['a', 'b']);\n");
        like($err, qr/ERROR:  55000: ia3 engine for backbone "$backbone" could not start/, 'a query gets an error');
        like($err, qr/HINT:  It is tried again from time to time/, 'with a hint');
    }
    like($err, qr/DETAIL:  cuda:0: .*\n.*cuda:1: /, 'each device says why');
    like(slurp_file($node->logfile), qr/WARNING:  ia3 engine "gpus\@cuda:1" could not start: /, 'in the server log, too');
    is(value(q{SELECT string_agg(device || ' ' || dtype, ', ' ORDER BY backbone, device) FROM ia3_stat_engine}),
        'cuda:1 float32, cuda:0 auto, cuda:1 auto', 'device and dtype are told apart');
    configure("default=$models/a\@auto");
    wait_for_engines('cpu ready', 'auto takes the CPU then');
    is(value($ANSWERS), $answers, 'and answers');
}

#
# There are as many threads as cores, however many engines share them.
#
value('ALTER SYSTEM SET ia3.threads = 0');
configure("default=$Ia3Test::BACKBONE\@cpu|cpu");
wait_for_engines('cpu ready, cpu ready', 'threads = 0');
my ($cores) = `nproc` =~ /(\d+)/;
my @threads = map { `tr '\\0' ' ' </proc/$_/cmdline` =~ /--threads (\d+)/ } pids();
is_deeply(\@threads, [ (int($cores / 2) || 1) x 2 ], 'the cores are divided');
my @limits = map { `tr '\\0' ' ' </proc/$_/cmdline` =~ /--memory-limit (\S+)/ } pids();
is_deeply(\@limits, [ 'auto/2', 'auto/2' ], 'and so is the memory');
my ($limit) = slurp_file($node->logfile) =~ /memory limit: (\d+) MB/;
cmp_ok($limit, '>', 0, 'which the log shows');
configure("default=$Ia3Test::BACKBONE\@cpu, other=$Ia3Test::BACKBONE\@cpu");
ok(wait_until(sub { value(q{SELECT count(DISTINCT backbone) FROM ia3_stat_engine}) eq '2' }), 'two backbones');
wait_for_engines('cpu ready, cpu ready', 'both of them ready');
@threads = map { `tr '\\0' ' ' </proc/$_/cmdline` =~ /--threads (\d+)/ } pids();
is_deeply(\@threads, [ 0, 0 ], 'of different backbones each has all');
@limits = map { `tr '\\0' ' ' </proc/$_/cmdline` =~ /--memory-limit (\S+)/ } pids();
is_deeply(\@limits, [ 'auto/1', 'auto/1' ], 'and the memory of the machine');

$node->stop;

done_testing();
