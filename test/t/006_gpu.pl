# Simulated GPUs (test/cudasim): one, two, none, one with too little memory, and one that is lost.
#
# IA3_TEST_CUDA_MODULE names the simulated device's module; engines inherit the environment of the server.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use Ia3Test;

my $module = $ENV{IA3_TEST_CUDA_MODULE};
plan skip_all => 'IA3_TEST_CUDA_MODULE does not name a simulated GPU' unless defined $module && -r $module;
$ENV{IA3_CUDA_MODULE} = $module;
$ENV{IA3_SIM_DEVICES} = 2;

my $node = ia3_node('gpu', conf => "ia3.threads = 1\nia3.backbones = 'default=$Ia3Test::BACKBONE:float32'\n");
create_shots($node);

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

# Restarts the server, and thereby its engines, with other environment variables.
sub restart_with
{
    my (%environment) = @_;
    delete @ENV{ grep { /^IA3_SIM_/ } keys %ENV };
    @ENV{ keys %environment } = values %environment;
    $node->restart;
    return;
}

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

# Returns the first error of a statement, with its SQLSTATE, detail and hint.
sub error_of
{
    my ($sql) = @_;
    my ($out, $err) = finish_query(start_query($node, "$sql;\n"));
    return $err =~ /ERROR:/ ? $err : "none, but: $out";
}

sub log_since
{
    my ($offset) = @_;
    return substr(slurp_file($node->logfile), $offset);
}

my $ask = q{SELECT string_agg(choice || round(score::numeric, 3), ' ' ORDER BY i, rank)
    FROM generate_series(1, 8) i, ia3_classify('t', 'page ' || i || ' does not load') c};
my $train = q{SELECT ia3_train('t', 'SELECT text, label FROM shots', steps => 3, batch_size => 4, seed => 1, dropout => 0)};

#
# One GPU, then two.
#
value($train);
my $answers = value($ask);
configure("default=$Ia3Test::BACKBONE\@cuda:float32");
wait_for_engines('cuda:0 ready', 'the backbone moves to a GPU');
is(value($ask), $answers, 'which answers as the CPU does');
like(value(q{SELECT dtype || ' ' || (parameters > 0) || ' ' || device_description FROM ia3_stat_engine}), qr/^float32 true .*simulat/i,
    'and is described');
my $first = engine_pid($node);
configure("default=$Ia3Test::BACKBONE\@cuda:0|cuda:1:float32");
wait_for_engines('cuda:0 ready, cuda:1 ready', 'two GPUs');
ok(process_runs($first), 'the first goes on, whether it was called cuda or cuda:0');
value(q{SET ia3.batch_rows = 4; SELECT count(ia3_predict('t', 'row ' || i)) FROM generate_series(1, 40) i});
is(value('SELECT count(*) FROM ia3_stat_engine WHERE rows > 0'), '2', 'both are used');
is(value($ask), $answers, 'the answers are the same');
is(value($train), '2', 'a training');
is(value($ask), $answers, 'gives a task that answers like the one that the CPU has trained');
my ($killed) = value(q{SELECT pid FROM ia3_stat_engine WHERE device = 'cuda:1'});
kill 'KILL', $killed;
is(value($ask), $answers, 'one is killed: the other answers');
wait_for_engines('cuda:0 ready, cuda:1 ready', 'it comes back');

# The settings for the CPU do not affect engines on GPUs.
my $pids = value('SELECT string_agg(pid::text, $$ $$ ORDER BY pid) FROM ia3_stat_engine');
value('ALTER SYSTEM SET ia3.threads = 2');
configure("default=$Ia3Test::BACKBONE\@cuda:1|cuda:0:float32");
sleep 1;
is(value('SELECT string_agg(pid::text, $$ $$ ORDER BY pid) FROM ia3_stat_engine'), $pids, 'neither threads nor the order replace an engine');

# A GPU that does not exist.
configure("default=$Ia3Test::BACKBONE\@cuda:0|cuda:1|cuda:2:float32");
wait_for_engines('cuda:0 ready, cuda:1 ready, cuda:2 failed', 'a third one that is not there');
like(value(q{SELECT message FROM ia3_stat_engine WHERE state = 'failed'}), qr/there is no GPU 2/, 'it says so');
is(value($ask), $answers, 'the others answer');
configure("default=$Ia3Test::BACKBONE\@auto:float32");
wait_for_engines('cuda:0 ready', 'auto takes a GPU');
like(slurp_file($node->logfile), qr/backbone "default" is ready: .*on \S/, 'the server log says which');

#
# Without a GPU, or with one that is too small, there is an error, or with auto the CPU is used.
#
for my $case (
    [ 'no driver', { IA3_SIM_DEVICES => 'none' }, qr/the GPU cannot be used: .*driver/ ],
    [ 'too little memory', { IA3_SIM_MEMORY => 1000000 }, qr/out of GPU memory .* of which \d+ are free/ ])
{
    my ($name, $environment, $message) = @$case;
    configure("default=$Ia3Test::BACKBONE\@cuda:float32");
    my $offset = -s $node->logfile;
    restart_with(%$environment);
    my $error = error_of($ask);
    like($error, qr/ERROR:  55000: ia3 engine for backbone "default" could not start/, "$name: a query gets an error");
    like($error, qr/DETAIL:  .*$message/, 'with the reason');
    like($error, qr/HINT:  It is tried again/, 'and a hint');
    like(log_since($offset), qr/WARNING:  ia3 engine "default" could not start: .*$message/, 'the server log has it');
    $offset = -s $node->logfile;
    configure("default=$Ia3Test::BACKBONE\@auto:float32");
    is(value($ask), $answers, 'auto answers');
    is(engines(), 'cpu ready', 'on the CPU');
    like(log_since($offset), qr/LOG:  ia3 engine "default": device "auto" uses the CPU instead of .*$message/, 'and says why');
}

#
# If a GPU is lost while it computes, waiting statements get an error that says so, and the engine is restarted.
#
restart_with(IA3_SIM_DEVICES => 1, IA3_SIM_LOST_AFTER => 2000);
configure("default=$Ia3Test::BACKBONE\@cuda:float32");
wait_for_engines('cuda:0 ready', 'a GPU that will be lost');
my $lost = engine_pid($node);
my $error = '';
for my $i (1 .. 200)
{
    $error = error_of("SELECT ia3_predict('t', 'question $i')");
    last if $error =~ /ERROR/;
}
like($error, qr/ERROR:  08006: ia3 engine for backbone "default" went away/, 'it is lost');
like($error, qr/DETAIL:  The engine process exited with status 1: GPU 0 failed: /, 'the query learns why');
like($error, qr/HINT:  It is being restarted\.$/m, 'and what happens');
is(value(q{SELECT ia3_predict('t', 'the next question') IS NOT NULL}), 't', 'the next one waits and is answered');
isnt(engine_pid($node), $lost, 'by another process');
is(value('SELECT restarts FROM ia3_stat_engine'), '1', 'after one restart');
$node->stop;

done_testing();
