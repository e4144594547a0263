//! Connections, and what is done to them.

use super::*;
use crate::env::{Socket, accept};
use std::io::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PORT: u16 = 7421;

/// Two hosts, and a connection between them.
struct Pair {
    sim: Sim,
    client: Host,
    server: Host,
    near: Box<dyn Socket>,
    far: Box<dyn Socket>,
}

fn pair(seed: u64) -> Pair {
    pair_with(seed, NetworkOptions::default())
}

fn pair_with(seed: u64, network: NetworkOptions) -> Pair {
    let sim = Sim::with(seed, SimOptions { network, ..SimOptions::default() });
    let (client, server) = (sim.host("c1"), sim.host("n1"));
    let listener = server.listen(PORT).unwrap();
    let env = client.env();
    let connecting = client.spawn("connects", async move { env.connect("n1:7421").await.unwrap() });
    let (near, (far, peer)) = sim.block_on(async { (connecting.await.unwrap(), accept(&listener).await.unwrap()) });
    assert!(peer.starts_with("c1:"), "{peer}");
    Pair { sim, client, server, near, far }
}

/// Reads until the end.
async fn read_all(socket: &mut Box<dyn Socket>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.map(|_| bytes)
}

#[test]
fn bytes_arrive_in_order_each_way_after_a_delay() {
    for seed in 0..50 {
        let Pair { sim, mut near, mut far, .. } = pair(seed);
        let sent: Vec<u8> = (0..200_000_u32).map(|number| number as u8 ^ (number >> 8) as u8).collect();
        let begun = sim.now();
        let (there, back) = sim.block_on(async {
            let there = async {
                near.write_all(&sent).await.unwrap();
                near.shutdown().await.unwrap();
                read_all(&mut near).await.unwrap()
            };
            let back = async {
                let read = read_all(&mut far).await.unwrap();
                far.write_all(b"answer").await.unwrap();
                drop(far);
                read
            };
            tokio::join!(back, there)
        });
        assert!(there == sent && back == b"answer", "seed {seed}");
        assert!(sim.now() - begun >= Duration::from_micros(200), "two delays");
    }
}

#[test]
fn a_writer_waits_for_a_reader() {
    let options = NetworkOptions { buffer_bytes: 1_000, ..NetworkOptions::default() };
    let Pair { sim, mut near, mut far, .. } = pair_with(1, options);
    let written = Mutex::new(0);
    sim.block_on(async {
        let write = async {
            for _ in 0..100 {
                near.write_all(&[7; 100]).await.unwrap();
                *written.lock().unwrap() += 100;
            }
        };
        let read = async {
            sim.env().sleep(Duration::from_secs(1)).await;
            assert_eq!(*written.lock().unwrap(), 1_000, "the buffer is full");
            let mut bytes = [0; 10_000];
            far.read_exact(&mut bytes).await.unwrap();
        };
        tokio::join!(write, read)
    });
}

#[test]
fn nobody_listens_nobody_answers_and_nobody_is_known() {
    let sim = Sim::new(2);
    let env = sim.env();
    let host = sim.host("n1");
    let kind = |address: &str| sim.block_on(env.connect(address)).err().map(|error| error.kind());
    assert_eq!(kind("n1:7421"), Some(ErrorKind::ConnectionRefused));
    assert_eq!(kind("n9:7421"), Some(ErrorKind::NotFound));
    assert_eq!(kind("n1"), Some(ErrorKind::NotFound));
    let listener = host.listen(PORT).unwrap();
    assert_eq!(host.listen(PORT).err().map(|error| error.kind()), Some(ErrorKind::AddrInUse));
    sim.network().cut("n1", "test");
    let begun = sim.now();
    assert_eq!(kind("n1:7421"), Some(ErrorKind::TimedOut), "the answer does not come back");
    assert!(sim.now() - begun >= NetworkOptions::default().connect_timeout);
    sim.network().heal();
    assert_eq!(kind("n1:7421"), None);
    drop(listener);
    assert_eq!(kind("n1:7421"), Some(ErrorKind::ConnectionRefused));
    host.cut_power();
    assert_eq!(kind("n1:7421"), Some(ErrorKind::TimedOut));
}

#[test]
fn an_attempt_to_connect_is_made_again_when_the_way_is_mended() {
    let sim = Sim::new(3);
    let listener = sim.host("n1").listen(PORT).unwrap();
    sim.network().partition(&["test"], &["n1"]);
    let (env, network) = (sim.env(), sim.network());
    sim.block_on(async {
        let mend = async {
            env.sleep(Duration::from_millis(1_500)).await;
            network.heal();
        };
        let (socket, ()) = tokio::join!(env.connect("n1:7421"), mend);
        socket.unwrap();
        accept(&listener).await.unwrap();
    });
    assert!(sim.now() >= Duration::from_secs(2), "it waited for the next attempt");
}

#[test]
fn what_is_sent_while_the_way_is_cut_arrives_after_it_is_mended() {
    let Pair { sim, mut near, mut far, .. } = pair(4);
    let env = sim.env();
    sim.network().cut("c1", "n1");
    sim.block_on(async {
        near.write_all(b"held").await.unwrap();
        far.write_all(b"the other way is open").await.unwrap();
        let mut bytes = [0; 21];
        near.read_exact(&mut bytes).await.unwrap();
        let mut held = [0; 4];
        let in_vain = env.until(env.now() + Duration::from_secs(5), far.read_exact(&mut held)).await;
        assert!(in_vain.is_none());
        sim.network().mend("c1", "n1");
        far.read_exact(&mut held).await.unwrap();
        assert_eq!(&held, b"held");
    });
}

#[test]
fn a_sender_stops_when_it_does_not_hear_what_was_read() {
    let options = NetworkOptions { buffer_bytes: 1_000, ..NetworkOptions::default() };
    let Pair { sim, mut near, mut far, .. } = pair_with(5, options);
    let env = sim.env();
    sim.network().cut("n1", "c1");
    sim.block_on(async {
        near.write_all(&[1; 1_000]).await.unwrap();
        far.read_exact(&mut [0; 1_000]).await.unwrap();
        assert!(env.until(env.now() + Duration::from_secs(1), near.write_all(b"more")).await.is_none());
        sim.network().mend("n1", "c1");
        near.write_all(b"more").await.unwrap();
        far.read_exact(&mut [0; 4]).await.unwrap();
    });
}

#[test]
fn a_sender_gives_up_after_its_time() {
    let Pair { sim, mut near, .. } = pair(6);
    sim.network().partition(&["c1"], &["n1"]);
    let begun = sim.now();
    let failed = sim.block_on(async {
        near.write_all(b"in vain").await.unwrap();
        near.read_u8().await.unwrap_err()
    });
    assert_eq!(failed.kind(), ErrorKind::TimedOut);
    assert!(sim.now() - begun >= NetworkOptions::default().give_up);
}

#[test]
fn a_bridge_reaches_both_sides_of_a_partition() {
    let sim = Sim::new(7);
    let hosts = ["a", "b", "bridge"].map(|name| sim.host(name));
    let _listeners = hosts.each_ref().map(|host| host.listen(PORT).unwrap());
    sim.network().partition(&["a"], &["b"]);
    let reach = |from: &Host, to: &str| sim.block_on(from.env().connect(&format!("{to}:7421"))).is_ok();
    assert!(reach(&hosts[0], "bridge") && reach(&hosts[2], "a") && reach(&hosts[2], "b"));
    assert!(!reach(&hosts[0], "b") && !reach(&hosts[1], "a"));
    assert!(reach(&hosts[0], "a"), "oneself is reached in any case");
}

#[test]
fn a_reset_fails_both_ends_and_no_other_connection() {
    let Pair { sim, mut near, mut far, server, .. } = pair(8);
    let listener = server.listen(1).unwrap();
    let env = sim.env();
    sim.block_on(async {
        let (own, other) = tokio::join!(env.connect("n1:1"), accept(&listener));
        let (mut own, mut other) = (own.unwrap(), other.unwrap().0);
        sim.network().reset("n1", "c1");
        for socket in [&mut near, &mut far] {
            assert_eq!(socket.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
            assert!(socket.write_all(b"x").await.is_err());
        }
        own.write_all(b"x").await.unwrap();
        assert_eq!(other.read_u8().await.unwrap(), b'x');
    });
}

#[test]
fn whoever_closes_with_something_unread_resets() {
    let Pair { sim, mut near, mut far, .. } = pair(9);
    sim.block_on(async {
        near.write_all(b"unread").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'u');
        sim.env().sleep(Duration::from_secs(1)).await;
        drop(far);
        assert_eq!(near.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
    let Pair { sim, mut near, far, .. } = pair(9);
    sim.block_on(async {
        drop(far);
        assert_eq!(near.read_u8().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        near.write_all(b"nobody reads this").await.unwrap();
        sim.env().sleep(Duration::from_secs(1)).await;
        assert_eq!(near.write_all(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn peers_of_a_crashed_host_see_an_end_a_reset_or_nothing_until_they_write() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let Pair { sim, client, server, mut near, far } = pair(seed);
        let env = sim.env();
        server.spawn("holds its end", async move {
            let held = far;
            std::future::pending::<()>().await;
            drop(held);
        });
        sim.run_for(Duration::from_secs(1));
        server.crash();
        let first = sim.block_on(env.until(env.now() + Duration::from_secs(3), near.read_u8()));
        let first = first.map(|read| read.unwrap_err().kind());
        if first.is_none() {
            sim.block_on(near.write_all(b"are you there?")).unwrap();
            server.start();
            let after = sim.block_on(near.read_u8()).unwrap_err().kind();
            assert_eq!(after, ErrorKind::ConnectionReset, "the new process knows nothing of it");
        }
        seen.insert(first.map(|kind| kind.to_string()));
        drop(client);
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn what_a_host_would_send_after_a_call_that_blocks_is_not_sent_if_it_crashes_in_it() {
    let Pair { sim, server, mut near, mut far, .. } = pair(10);
    let env = server.env();
    let host = server.clone();
    server.spawn("syncs and answers", async move {
        host.stall(Duration::from_millis(10));
        far.write_all(b"synced").await.unwrap();
        env.sleep(Duration::from_secs(9)).await;
        drop(far);
    });
    sim.run_for(Duration::from_millis(5));
    server.crash();
    let read = sim.block_on(sim.env().until(sim.env().now() + Duration::from_secs(5), near.read_u8()));
    assert!(read.is_none_or(|read| read.is_err()), "the answer got out");
}

#[test]
fn delays_are_as_the_options_say() {
    let far_away = NetworkOptions {
        delay_min: Duration::from_millis(50),
        delay_max: Duration::from_millis(60),
        slow_one_in: 0,
        ..NetworkOptions::default()
    };
    let Pair { sim, mut near, mut far, .. } = pair(11);
    sim.network().set_options(far_away);
    let begun = sim.now();
    sim.block_on(async {
        near.write_all(b"x").await.unwrap();
        far.read_u8().await.unwrap();
    });
    let took = sim.now() - begun;
    assert!(took >= Duration::from_millis(50) && took <= Duration::from_millis(60), "{took:?}");
}
