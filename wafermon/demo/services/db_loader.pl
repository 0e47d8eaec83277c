#!/usr/bin/env perl

# db-loader: parses the datalogs of one lot, works out yield and Cpk, and loads them into SQLite.
#
# usage: db_loader.pl CONFIG_ADDRESS FOLDER
#
# Core modules only. Perl's core has no SQLite, so the rows go through a pipe to load_rows.py, run by the Python that the
# variable PYTHON names.
#
# To see here: the trace goes on that TRACEPARENT names, spans, metrics with tags, progress.

use 5.010;
use strict;
use warnings;

use File::Basename qw(basename dirname);
use IO::Socket::INET;
use lib dirname(__FILE__), dirname(__FILE__) . '/../../../perl/lib';
use WaferMon;

BEGIN { eval { require Time::HiRes; Time::HiRes->import('time') } }    # not on every host

my ($config, $folder) = @ARGV;
my $lot = basename($folder);
my $wm  = WaferMon->new(src => 'db-loader');
$| = 1;    # what is said now must not be said again by the child at the other end of a pipe

load_lot();
$wm->log_resource;
$wm->flush;
printf "db-loader: sent %d messages, dropped %d, refused %d\n", $wm->sent, $wm->dropped, $wm->refused;
$wm->close;

sub load_lot {
    my $span = $wm->start_span("load $lot", ctx => { lot => $lot });
    $wm->heartbeat;
    my ($settings, $limits) = (ask('loader'), ask('limits'));
    my @files = files($folder);
    my $began = time;
    my @rows;
    for my $number (1 .. @files) {
        push @rows, wafer($files[ $number - 1 ], $settings, $limits);
        $wm->log_progress("load $lot", 90 * $number / @files);
    }
    my $dies = grep { $_->[0] eq 'dies' } @rows;
    $wm->log_metric('dies_per_s', $dies / (time - $began), unit => '1/s', tags => { lot => $lot })
        if time > $began;
    write_rows($settings, \@rows);
    say "db-loader: loaded $lot: " . @files . " wafers, $dies dies, " . @rows . ' rows in all';
    $wm->log_progress("load $lot", 100, status => 'done', msg => scalar(@files) . ' wafers');
    return;
}

# Not by glob, for which a blank in a folder's name separates two patterns.
sub files {
    my ($from) = @_;
    opendir my $dh, $from or die "cannot read $from: $!\n";
    return map { "$from/$_" } sort grep { /\.csv\z/ } readdir $dh;
}

# The rows of one wafer, and what there is to say about it.
sub wafer {
    my ($file, $settings, $limits) = @_;
    my ($name) = $file =~ /_(\w+)\.csv\z/;
    my $span = $wm->start_span("parse $name", ctx => { file => basename($file) });
    my $data = parse($file);
    my ($wafer, $dies) = @$data{qw(wafer dies)};
    my $good  = $data->{bins}{1} || 0;
    my $yield = $dies ? 100 * $good / $dies : 0;
    my %tags  = (lot => $lot, wafer => $wafer);
    $wm->log_metric('wafer_yield', sprintf('%.2f', $yield), unit => '%', tags => \%tags);
    if ($yield < $settings->{min_yield}) {
        $wm->log_event('warn', 'low yield', { %tags, yield => 0 + sprintf('%.2f', $yield), bins => $data->{bins} });
        say sprintf 'db-loader: low yield of %s: %.1f %%', $wafer, $yield;
    }

    my @rows = (@{ $data->{rows} }, [ 'wafers', $lot, $wafer, $dies, $good, sprintf '%.2f', $yield ]);
    push @rows, [ 'bins', $lot, $wafer, $_, $data->{bins}{$_} ] for sort keys %{ $data->{bins} };
    for my $test (sort keys %{ $data->{values} }) {
        my ($n, $mean, $sigma) = spread(@{ $data->{values}{$test} });
        my $cpk = cpk($mean, $sigma, split /\s*,\s*/, $limits->{$test} // '');
        push @rows, [ 'tests', $lot, $wafer, $test, $data->{unit}{$test}, $n, $mean, $sigma, $cpk ];
        $wm->log_metric('cpk', $cpk, tags => { %tags, test => $test }) if length $cpk;
    }
    return @rows;
}

# One pass over a datalog; file-receiver has seen that it is whole.
sub parse {
    my ($file) = @_;
    my %data = (wafer => '', dies => 0, bins => {}, values => {}, unit => {}, rows => []);
    my ($x, $y);
    open my $fh, '<', $file or die "cannot read $file: $!\n";
    while (my $line = <$fh>) {
        chomp $line;
        my ($record, @field) = split /,/, $line;
        if ($record eq 'PTR') {
            my ($test, $value, $unit) = @field;
            push @{ $data{values}{$test} }, $value;
            $data{unit}{$test} = $unit;
            push @{ $data{rows} }, [ 'measurements', $lot, $data{wafer}, $x, $y, $test, $value ];
        }
        elsif ($record eq 'PIR') {
            ($x, $y) = @field;
        }
        elsif ($record eq 'PRR') {
            $data{dies}++;
            $data{bins}{ $field[2] }++;
            push @{ $data{rows} }, [ 'dies', $lot, $data{wafer}, @field ];
        }
        elsif ($record eq 'WIR') {
            $data{wafer} = $field[0];
        }
    }
    close $fh or die "cannot read $file: $!\n";
    return \%data;
}

# Number, mean and standard deviation.
sub spread {
    my (@values) = @_;
    my ($n, $sum, $squares) = (scalar @values, 0, 0);
    $sum += $_ for @values;
    my $mean = $sum / $n;
    $squares += ($_ - $mean)**2 for @values;
    return ($n, map { sprintf '%.6g', $_ } $mean, $n > 1 ? sqrt($squares / ($n - 1)) : 0);
}

# How far the nearer limit is, in units of three sigma; empty without limits.
sub cpk {
    my ($mean, $sigma, $low, $high) = @_;
    return '' if !defined $high || $sigma <= 0;
    my $room = $mean - $low < $high - $mean ? $mean - $low : $high - $mean;
    return sprintf '%.3f', $room / (3 * $sigma);
}

sub write_rows {
    my ($settings, $rows) = @_;
    my $span  = $wm->start_span('write database', ctx => { rows => scalar @$rows });
    my @load  = ($ENV{PYTHON} // 'python3', dirname(__FILE__) . '/load_rows.py', @$settings{qw(database keep_lots)});
    open my $pipe, '|-', @load or die "cannot run $load[0]: $!\n";
    print {$pipe} join(',', @$_) . "\n" for @$rows;
    close $pipe or die "the rows of $lot were not loaded\n";
    $wm->log_event('info', 'rows loaded', { lot => $lot, rows => scalar @$rows });
    $wm->log_metric('rows_loaded', scalar @$rows, kind => 'counter', tags => { lot => $lot });
    return;
}

# A section of the settings. The request carries the trace as W3C says; HTTP by hand, as not every host has HTTP::Tiny.
sub ask {
    my ($section) = @_;
    my $span   = $wm->start_span('ask for settings');
    my $socket = IO::Socket::INET->new(PeerAddr => $config, Timeout => 10) or die "no config-service at $config: $@\n";
    print {$socket} "GET /$section HTTP/1.0\r\ntraceparent: ", $span->traceparent, "\r\n\r\n";
    my ($head, $body) = split /\r\n\r\n/, do { local $/ = undef; <$socket> }, 2;
    $head =~ /\AHTTP\S+ 200 / or die "config-service does not know $section\n";
    return { map { split /=/, $_, 2 } split /\n/, $body };
}
