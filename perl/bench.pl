#!/usr/bin/env perl
# Cost of a call, in microseconds, against a listener on loopback that reads, and acknowledges, as fast as it can:
#   perl bench.pl [CALLS [send]]
use 5.010;
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::INET;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);
use WaferMon;

my $calls    = shift // 50_000;
my $delivery = shift // 'ack';
delete @ENV{ grep {/\A(?:MONITORING_|TRACEPARENT\z)/} keys %ENV };

my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die "listen: $!";
defined(my $reader = fork) or die "fork: $!";
if (!$reader) {
    my $peer = $listener->accept;
    my ($rest, $answer) = ('', 'welcome');
    while (sysread $peer, my $buffer, 1 << 20) {
        next if $delivery eq 'send';
        my ($q) = ($rest . $buffer) =~ /.*"q":([0-9]+)\}\n/s;
        $rest = substr $buffer, -100;
        syswrite $peer, sprintf qq({"v":1,"type":"%s","q":%d,"level":"memory"}\n), $answer, $q // 0;
        $answer = 'ack';
    }
    exit 0;
}
my $client = WaferMon->new(src => 'db-loader', port => $listener->sockport, delivery => $delivery);
my %ctx    = (lot => 'L1234.7', tool => 'EQP07', rows => 12_345, seconds => 1.25);
my @case   = (
    [ 'event'                 => sub { $client->log_event('info', 'file loaded') } ],
    [ 'event, ctx of 4'       => sub { $client->log_event('info', 'file loaded', \%ctx) } ],
    [ 'event, ctx of 20'      => sub { state $big = { map { ("key$_" => "value $_") } 1 .. 20 }; $client->log_event('info', 'x', $big) } ],
    [ 'event, not ASCII'      => sub { $client->log_event('info', "12 \xb5m", \%ctx) } ],
    [ 'metric, 2 tags'        => sub { $client->log_metric('load_time', 12.25, unit => 'ms', tags => { tool => 'EQP07', bin => 7 }) } ],
    [ 'progress'              => sub { $client->log_progress('nightly', 42.5) } ],
    [ 'span, started and ended' => sub { $client->start_span('load')->end } ],
    [ 'resource, own'         => sub { $client->log_resource } ],
);
printf "%-26s %8s %8s %8s\n", 'us a call', 'p50', 'p99', 'mean';
measure(@$_) for @case;
$client->close(10);
waitpid $reader, 0;
printf "sent %d, dropped %d, refused %d\n", map { $client->$_ } qw(sent dropped refused);

# Nothing listens there any more.
my $away = WaferMon->new(src => 'db-loader', port => $listener->sockport, delivery => $delivery, close_timeout => 0);
close $listener;
measure('event, ctx of 4, away' => sub { $away->log_event('info', 'file loaded', \%ctx) });

sub measure {
    my ($name, $call) = @_;
    $call->() for 1 .. 100;
    my @us;
    for (1 .. $calls) {
        my $start = clock_gettime(CLOCK_MONOTONIC);
        $call->();
        push @us, 1e6 * (clock_gettime(CLOCK_MONOTONIC) - $start);
    }
    my $sum = 0;
    $sum += $_ for @us;
    @us = sort { $a <=> $b } @us;
    printf "%-26s %8.1f %8.1f %8.1f\n", $name, @us[ $calls / 2, $calls * 0.99 ], $sum / $calls;
    return;
}
