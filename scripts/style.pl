#!/usr/bin/perl
#
# style.pl: the rules of CODING.md that can be checked by reading the sources. Prints every line that breaks one; the exit
# status is 1 when there is one.

use strict;
use warnings;
use File::Basename qw(dirname basename);

chdir dirname(__FILE__) . '/..' or die;

my $bad = 0;

sub complain {
    my ($where, $what) = @_;
    print "$where: $what\n";
    $bad++;
}

sub slurp {
    my ($file) = @_;
    open my $in, '<', $file or die "$file: $!";
    local $/;
    return <$in>;
}

# The line on which an offset lies.
sub line_of {
    my ($text, $offset) = @_;
    return 1 + (substr($text, 0, $offset) =~ tr/\n//);
}

# Every file begins with its own name and what it is about, in its own words.
sub check_head {
    my ($file, $text) = @_;
    my $name = basename($file);
    if ($text !~ m{\A/\*\n \* \Q$name\E\n \* +\S}) {
        complain("$file:1", 'the file does not begin with a comment that has its name and its subject');
        return;
    }
    complain("$file:3", 'the head only refers to another file') if $text =~ m{\A/\*\n.*\n \* +See [\w./]+\.?\n};
}

# Functions and variables of a .c file that others can see, and those that they cannot.
sub check_names {
    my ($file, $text, $exported, $static) = @_;
    # a definition has its name at the beginning of a line, after the line with its type
    while ($text =~ /^([^\s#\/{}*][^\n;={}()]*)\n(\w+)\(/mg) {
        my ($type, $name) = ($1, $2);
        my $line = line_of($text, $-[2]);
        next if $name =~ /^[A-Z0-9_]+$/;    # a macro that makes definitions
        if ($type =~ /\bstatic\b|\b(IA3_INLINE|UNUSED|INLINE)\b/) {
            complain("$file:$line", "the static function $name is not in snake_case") if $name !~ $static;
        } elsif ($name ne 'main') {
            complain("$file:$line", "the name of the function $name is not of the form that CODING.md gives")
              if $name !~ $exported;
        }
    }
}

sub check_extension {
    my ($file, $text) = @_;
    if ($file =~ /\.c$/) {
        my ($first) = $text =~ /^\s*#\s*include\s+(\S+)/m;
        complain("$file:1", 'postgres.h is not its first header') if ($first // '') ne '"postgres.h"';
        # PostgreSQL calls functions of SQL by their names there
        check_names($file, $text, qr/^(Ia3[A-Z]\w*|ia3_\w+|_PG_init)$/, qr/^[a-z][a-z0-9_]*$/);
    }
    if ($file !~ m{/ia3_compat\w*\.h$}) {
        while ($text =~ /PG_VERSION_NUM/g) {
            complain("$file:" . line_of($text, $-[0]), 'PG_VERSION_NUM belongs into ia3_compat.h');
        }
    }
    # the SQL script is the one place for definitions
    while ($text =~ /^ \* +CREATE (OR REPLACE )?FUNCTION/mg) {
        complain("$file:" . line_of($text, $-[0]), 'a definition of SQL stands in a comment');
    }
}

# A clock that somebody sets must not end a wait or make it last.
sub check_clocks {
    my ($file, $text) = @_;
    while ($text =~ /\b(CLOCK_REALTIME|gettimeofday|pthread_\w*timed\w+|TimestampTzPlusMilliseconds|TimestampDifference\w*)\b/g) {
        complain("$file:" . line_of($text, $-[0]), "$1 measures time with the wall clock");
    }
}

my @files = sort split /\n/, qx{find src kernels bench test -type f | grep -E '\\.(c|h|cc|cpp|cu|cuh)\$'};
for my $file (@files) {
    my $text = slurp($file);
    check_head($file, $text) if $file =~ m{^(src|kernels|bench)/};
    check_clocks($file, $text) if $file =~ m{^(src|kernels)/};
    check_extension($file, $text) if $file =~ m{^src/extension/};
    check_names($file, $text, qr/^ia3_\w+$/, qr/^[a-z][a-z0-9_]*$/) if $file =~ m{^(src/engine|kernels/cpu)/.*\.c$};
    complain("$file:1", 'it lies directly in src/engine instead of in a folder') if $file =~ m{^src/engine/[^/]*$};
}

# A folder says what lives in it.
for my $folder (split /\n/, qx{find src kernels bench gpu test -maxdepth 2 -type d}) {
    next if $folder =~ m{^(src$|test/)|__pycache__};
    complain($folder, 'the folder has no README.md') unless -e "$folder/README.md";
}

printf "%d files, %d complaints\n", scalar @files, $bad;
exit($bad ? 1 : 0);
