#!/usr/bin/env perl
#
# run.pl: runs a benchmark with the smallest sizes, to see that it still works; the speed does not matter.
#
#   run.pl NAME DIRECTORY    one of the benchmarks below; from the top of the tree, with an empty directory to write to
#   run.pl --list            their names
#
# Each has to end with exit status 0 and print the lines that are listed for it. A number in such a line has to be one: not
# "nan", not "inf". Prints "ok N - ..." and "not ok N - ...", and the output of a benchmark that has failed on lines that
# start with "#"; "ok 1 - NAME # SKIP" where what it needs is missing.
#
# batching, soak and hostile are the parts of scripts/bench and need an installed ia3 (IA3_INSTALLED=1). The others are
# built in build/release.

use strict;
use warnings;

my $number = qr/(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)/;

# "NAME  VALUE UNIT VERDICT", as bench_batching.py prints it.
sub reported { return map { qr/^\Q$_\E +$number\b/ } @_ }

sub write_file
{
    my ($path, $text) = @_;
    open my $out, '>', $path or die "$path: $!\n";
    print $out $text;
    close $out or die "$path: $!\n";
}

my ($name, $dir) = @ARGV;
$dir //= '.';
my $bin = 'build/release/bench';
my $mini = '--backbone test/backbone --threads 1';
my $python = $ENV{PYTHON} // 'python3';

# Token ids for bench_engine: two rows of two tasks.
my $inputs = '{"rows": [{"ids": [100, 200, 300, 1], "task": 0, "label": 0}, {"ids": [50, 60, 1], "task": 1, "label": 1}],'
  . ' "choices": {"2": [[[100, 1], [200, 300, 1]]], "train": [[[100, 1], [200, 300, 1]]]}, "batches": [[0, 1]]}';
my @operations = ('attention', 'attention_bwd', 'rmsnorm', 'rmsnorm_bwd', 'gated_act', 'gated_act_bwd', 'add_dropout');
my $answer = qr/"seconds": ?$number.*"cpu": ?$number.*"flops": ?$number.*"loss": ?$number/;

# name => [command, its standard input, regular expressions for lines]
my %benchmarks = (
    batching => [
        'scripts/bench batching --rows 40 --repeat 1 --seconds 2 --sessions 4 --steps 4', '',
        reported(
            'engine alone, 32 tasks mixed', 'LATERAL over 40 rows, 32 tasks', 'LATERAL, one task', 'LATERAL / engine alone',
            '32 tasks mixed / one task', '4 sessions, single rows', '4 sessions / engine alone', 'single row, idle: p50',
            'single row, idle: p99', 'single row, under a scan: p99', 'single row, during a training run: p99',
            'training alone', 'training under a scan', 'three training runs, one after the other',
            'three training runs at once', 'one after the other / at once', 'five training runs, one after the other', 'cross-validation with five folds',
            'five runs / five folds'),
        qr/^engine: $number batches, $number rows a batch, $number tasks a batch/],
    soak => [
        'scripts/bench soak --clients 8 --seconds 12 --interruptions 2 --steps 10', '',
        reported(
            'engine killed', 'engine stopped', 'queries cancelled', 'statements that ended well', 'share of right answers',
            'share that ended well or with an error of these events', 'share of sessions that lasted',
            'memory of the engine, early', 'memory of the engine, early / late', 'memory of the backends, early',
            'memory of the backends, early / late', 'interruptions', 'step of the last checkpoint',
            'vectors are those of an uninterrupted run')],
    hostile => [
        'scripts/bench hostile --sessions 7 --seconds 2 --warm-up 0.5', '',
        reported(
            'single row, nothing else: p99', 'single row beside plain SQL: statements', 'single row beside plain SQL: p50',
            'single row beside plain SQL: p99', 'single row beside plain SQL: longest',
            'single row beside hostile load: statements', 'single row beside hostile load: p50',
            'single row beside hostile load: p99', 'single row beside hostile load: longest',
            '3 x p99 beside plain SQL / p99 beside hostile load', 'memory of the engine, the most',
            'pg_ctl stop -m fast under hostile load', '5 s / pg_ctl stop -m fast')],
    cpu => [
        "$python bench/bench_cpu.py --work $dir --build build/release --peers '' --shape mini"
          . ' --only adapters,idle,agreement,scoring,mixed,training --tokens 30 --dtype float32,int8 --rows 4 --runs 1 --steps 1 --threads 1',
        '', qr/^mini: memory of 1000 adapters resident \/ their vectors +$number/, qr/^engine idle for 5 s: processor time +$number s/,
        qr/^mini, 30 tokens, 2 choices: ia3 float32 +$number rows/, qr/^mini, 30 tokens, 8 choices: ia3 int8 +$number rows/,
        qr/^mini, 30 tokens, training, batch 8: ia3 float32 +$number steps/],
    bench_kernels => [
        "env BENCH_QUICK=1 $bin/bench_kernels 1 2 16", '',
        (map { qr/^$_ +$number +$number\b/ } @operations, 'vocab \(\d+ rows\)', 'vocab_bwd \(\d+ rows\)')],
    bench_matmul => [
        "env BENCH_QUICK=1 $bin/bench_matmul 1", '',
        map { qr/^ *$_ +1024 +$number +$number +$number$/ } '768 +256', '256 +512', '4096 +1024'],
    bench_onednn => ["$bin/bench_onednn float32 1 64:32", '', qr/^64 32 $number$/],
    bench_profile => [
        "$bin/bench_profile score $mini --choices 'good|bad'", "it works\nit is broken\n",
        qr/^matmul 256->512 +$number +$number +$number +$number +$number rows, +$number GFLOP/,
        (map { qr/^$_ +$number +$number +$number +$number\b/ } 'attention, self', 'gated_act', 'rmsnorm', 'vocab_logprobs'),
        qr/^whole +$number +$number$/],
    bench_profile_train => [
        "$bin/bench_profile train $mini --steps 2 --batch-size 2 --out $dir/adapter.safetensors", "it works\tgood\nit is broken\tbad\n",
        (map { qr/^$_ +$number +$number +$number +$number\b/ } 'attention_bwd, self', 'gated_act_bwd', 'adafactor'),
        qr/^whole +$number +$number$/],
    bench_limits => [
        "$bin/bench_profile --limits score --shape mini --rows 2 --tokens 16 --passes 1 --threads 1", '',
        qr/^ +float32 multiply-add +$number GFLOP/, qr/^matmul 384->1536 +$number +$number +$number +$number% +product +$number +$number$/,
        qr/^attention, self +$number +$number +$number% +\w+ +$number +$number$/, qr/^products +$number +$number% +$number$/,
        qr/^whole pass: $number ms;/],
    bench_engine => [
        "$bin/bench_engine score $mini --choices - $dir/inputs.json",
        "score 2 2 $dir/scores\ntrain 1 0 $dir/vectors\ntrain 1 0.1 -\nquit\n", ($answer) x 3],
    bench_load => [
        "$bin/bench_load --work $dir --shape tiny --file float64 --format bin --dtype int8 --threads 1 --runs 1", '',
        qr/^pytorch_model.bin +float64 +int8 +$number +$number +$number +$number +$number +$number +$number +$number% (ok|short)$/],
    bench_gpu => [
        "$bin/bench_gpu --device cpu --dtype float32 --threads 1 --tokens 8 --config test/backbone/config.json",
        "open\nscore 2 2 1 0.01\ntrain 1 1 2\ngive_way 2 2 1\nquit\n", qr/"parameters": ?$number/, qr/"rows": ?$number/,
        qr/"last_loss": ?$number/, qr/"without": ?\[$number, ?$number\], ?"with": ?\[$number, ?$number\], ?"calls": ?[1-9]/]);

die "usage: run.pl NAME DIRECTORY | --list\n" unless defined $name;
if ($name eq '--list')
{
    print "$_\n" for sort keys %benchmarks;
    exit;
}
my ($command, $input, @lines) = @{ $benchmarks{$name} // die "there is no benchmark $name\n" };
if ($name eq 'cpu' && system("$python -c 'import numpy, sentencepiece' 2>/dev/null") != 0)
{
    print "ok 1 - cpu # SKIP $python has no numpy or no sentencepiece\n1..1\n";
    exit;
}
write_file("$dir/in", $input);
write_file("$dir/inputs.json", $inputs);

my @output = split /\n/, `$command <$dir/in 2>&1`;
my $status = $?;
my ($tests, $failures) = (0, 0);

sub ok
{
    my ($good, $what) = @_;
    $tests++;
    $failures++ unless $good;
    print $good ? '' : 'not ', "ok $tests - $name: $what\n";
}

ok($status == 0, 'runs to its end');
my @bad = grep { /(?<![\w.])-?(nan|inf)(?!\w)/i } @output;
ok(!@bad, 'every number is one');
my @left = @output;
for my $line (@lines)
{
    my ($found) = grep { $left[$_] =~ $line } 0 .. $#left;
    splice @left, $found, 1 if defined $found; # a line counts once
    (my $text = $line) =~ s/\Q$number\E/N/g;
    $text =~ s/^\(\?\^:(.*)\)$/$1/;
    ok(defined $found, "prints $text");
}
print "1..$tests\n";
print "# $_\n" for $failures ? ("exit status $status", @output) : ();
exit($failures ? 1 : 0);
