#!/usr/bin/perl
#
# layers.pl: which folder may include headers of which (docs/architecture.md). Prints every #include that breaks the
# rules and the number of arrows between folders that run back; the exit status is 1 when there is one.
#
#   scripts/layers.pl           check
#   scripts/layers.pl --list    prints the arrows, "FROM -> TO (how many files of FROM)"
#
# An arrow runs back when a folder includes a header of one that is not below it. A folder that has no rule is an error,
# so that a new one gets a place.

use strict;
use warnings;
use File::Basename qw(dirname);
use File::Spec;

chdir dirname(__FILE__) . '/..' or die;

# Each folder, and the folders below it. What is below those is below it, too.
my %below = (
    'src/common'               => [],
    'src/engine/base'          => ['src/common'],
    'src/engine/device'        => ['src/engine/base'],
    'kernels/cpu'              => ['src/engine/device'],
    'kernels/cuda'             => ['src/engine/device'],
    'src/engine/files'         => ['src/engine/device'],
    'src/engine/model'         => ['src/engine/files'],
    'src/engine/model/methods' => ['src/engine/model'],
    'src/engine/recipe'        => ['src/engine/model/methods'],
    'src/engine/serve'         => ['src/engine/recipe'],
    'src/engine/cli'           => ['src/engine/serve'],
    # the floor (guc.h, clock.h, ia3_compat*.h) and the roof (ia3.c) of the extension lie in one folder
    'src/extension (floor)'    => ['src/common'],
    'src/extension/supervisor' => ['src/extension (floor)'],
    'src/extension/client'     => ['src/extension/supervisor'],
    'src/extension/tasks'      => ['src/extension/client'],
    'src/extension/predict'    => ['src/extension/tasks'],
    'src/extension/readahead'  => ['src/extension/predict'],
    'src/extension/train'      => ['src/extension/predict'],
    'src/extension/label'      => ['src/extension/predict'],
    'src/extension (roof)'     => ['src/extension/readahead', 'src/extension/train', 'src/extension/label'],
    # programs: nothing includes their headers
    'test' => [ 'src/engine/cli', 'kernels/cpu', 'kernels/cuda', 'bench' ],
    'test/fuzz' => [ 'src/engine/cli', 'src/extension (roof)' ], # of either, not of both in one program
    'bench' => [ 'src/engine/cli', 'kernels/cpu', 'kernels/cuda' ],
);

sub room {
    my ($file) = @_;
    return 'test/fuzz' if $file =~ m{^test/fuzz/};
    return 'test'  if $file =~ m{^test/};
    return 'bench' if $file =~ m{^(bench|gpu)/};
    return 'src/extension (floor)' if $file =~ m{^src/extension/(guc\.[ch]|clock\.h|ia3_compat\w*\.h)$};
    return 'src/extension (roof)'  if $file eq 'src/extension/ia3.c';
    return dirname($file);
}

# All folders that a folder may include.
my %reach;
sub reach {
    my ($folder) = @_;
    return $reach{$folder} //= do {
        my %all = map { $_ => 1, %{ reach($_) } } @{ $below{$folder} };
        \%all;
    };
}

my (%arrows, $files, $bad);
my @sources = sort split /\n/,
  qx{find src kernels test bench gpu -type f | grep -E '\\.(c|h|cc|cpp|cu|cuh)\$'};
for my $file (@sources) {
    my $from = room($file);
    $files++;
    if (!exists $below{$from}) {
        print "$file: the folder $from has no place in scripts/layers.pl\n";
        $bad++;
        next;
    }
    open my $in, '<', $file or die "$file: $!";
    while (my $line = <$in>) {
        # also the header that a flag of the compiler names (-DX='"test/x.h"') would stand in quotes
        next unless $line =~ /^\s*#\s*include\s+"([^"]+)"/;
        my ($to) = grep { -f } map { File::Spec->canonpath($_) } dirname($file) . "/$1", "src/$1", $1;
        next unless defined $to;    # of PostgreSQL, a library, or written by the build
        1 while $to =~ s{[^/]+/\.\./}{};
        my $target = room($to);
        next if $target eq $from;
        $arrows{"$from -> $target"}{$file} = 1;
        next if reach($from)->{$target};
        print "$file:$.: $from must not include $target ($1)\n";
        $bad++;
    }
}
if (@ARGV && $ARGV[0] eq '--list') {
    printf "%s (%d)\n", $_, scalar keys %{ $arrows{$_} } for sort keys %arrows;
}
printf "%d files, %d arrows between folders, %d includes run back\n", $files, scalar keys %arrows, $bad // 0;
exit($bad ? 1 : 0);
