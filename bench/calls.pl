# Time each call of the Perl SDK, or of what one would write without it:
#   perl calls.pl sdk|bare PORT CALLS BURST
# Prints {"us":[...],"sent":N,"dropped":N}. `bare` is JSON::XS and a blocking write.
use 5.010;
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../perl/lib";
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC sleep);

my ($kind, $port, $calls, $burst) = @ARGV;
delete @ENV{ grep {/\A(?:MONITORING_|TRACEPARENT\z)/} keys %ENV };
my %ctx = (lot => 'L1234.7', tool => 'EQP07', rows => 12_345, seconds => 1.25);
my ($client, $call) = $kind eq 'sdk' ? sdk() : bare();

my @us;
while (@us < $calls) {
    for (1 .. $burst) {
        my $began = clock_gettime(CLOCK_MONOTONIC);
        $call->();
        push @us, 1e6 * (clock_gettime(CLOCK_MONOTONIC) - $began);
    }
    sleep 0.002;
}
$client->flush(10) if $client;
my ($sent, $dropped) = $client ? ($client->sent, $client->dropped) : (scalar @us, 0);
$client->close(10) if $client;
printf qq({"us":[%s],"sent":%d,"dropped":%d}\n), join(',', map { sprintf '%.3f', $_ } @us), $sent, $dropped;

sub sdk {
    require WaferMon;
    my $made = WaferMon->new(src => 'bench', host => '127.0.0.1', port => $port);
    return ($made, sub { $made->log_event('info', 'file loaded', \%ctx) });
}

sub bare {
    require JSON::XS;
    require IO::Socket::INET;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "connect: $!";
    my $json   = JSON::XS->new->utf8;
    return (
        undef,
        sub {
            syswrite $socket, $json->encode({
                v    => 1,
                src  => 'bench',
                ts   => int(1000 * Time::HiRes::time()),
                type => 'event',
                data => { level => 'info', msg => 'file loaded', ctx => \%ctx },
            }) . "\n";
        });
}
