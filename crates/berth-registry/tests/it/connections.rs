//! Connections: kept for who comes next, and closed at the wrong moment.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use berth_registry::{Clients, Credentials, Purpose, RegistryOptions, Session};

use crate::kit::limits;

/// A registry that answers so many requests on each connection, and hangs up on the next one. Ends
/// with the test's process.
struct Keeping {
    host: String,
    connections: Arc<AtomicUsize>,
}

impl Keeping {
    fn start(answers: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    for _ in 0..answers {
                        if !request(&mut lines) {
                            return;
                        }
                        let said =
                            b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"tags\":[\"1\"]}";
                        stream.write_all(said).unwrap();
                    }
                    request(&mut lines);
                });
            }
        });
        Self { host, connections }
    }

    async fn open(&self, clients: &Clients) -> Session {
        let options = RegistryOptions::default();
        let mut endpoints = options.endpoints(&self.host, Purpose::Pull).await.unwrap();
        let plain = endpoints.pop().unwrap();
        let nobody = Credentials::default();
        Session::open(clients, plain, Path::new("/none"), nobody, limits()).await.unwrap()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Reads to the blank line; whether there was one.
fn request(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> bool {
    lines.map_while(Result::ok).any(|line| line.is_empty())
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_session() {
    let registry = Keeping::start(usize::MAX);
    let clients = Clients::default();
    for _ in 0..10 {
        let session = registry.open(&clients).await;
        assert_eq!(session.tags("a/b").await.unwrap(), ["1"]);
    }
    // One may come too early for the connection of the one before.
    let kept = registry.connections();
    assert!(kept < 20, "{kept}");
    registry.open(&Clients::default()).await;
    assert_eq!(registry.connections(), kept + 1);
}

#[tokio::test]
async fn a_question_is_asked_again_when_the_connection_was_closed() {
    let registry = Keeping::start(1);
    let session = registry.open(&Clients::default()).await;
    for _ in 0..3 {
        assert_eq!(session.tags("a/b").await.unwrap(), ["1"]);
    }
}
