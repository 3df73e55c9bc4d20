//! Bodies that arrive in pieces, and what tries read of them.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    sync::mpsc,
    task::LocalSet,
};

use super::*;

/// A body that arrives in the pieces that are written to the stream.
async fn upload() -> (Upload, DuplexStream) {
    let (mut caller, server) = tokio::io::duplex(1 << 20);
    let (tell, mut told) = mpsc::channel(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            tell.send(request.into_body()).await.unwrap();
            // The body comes for as long as there is no answer.
            std::future::pending::<()>().await;
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let serving = http1::Builder::new().serve_connection(TokioIo::new(server), service);
    tokio::task::spawn_local(serving);
    let head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    caller.write_all(head).await.unwrap();
    (Upload::new(told.recv().await.unwrap()), caller)
}

async fn chunk(caller: &mut DuplexStream, text: &str) {
    let chunk = format!("{:x}\r\n{text}\r\n", text.len());
    caller.write_all(chunk.as_bytes()).await.unwrap();
}

async fn end(caller: &mut DuplexStream) {
    caller.write_all(b"0\r\n\r\n").await.unwrap();
}

async fn read(body: &mut UpBody) -> Option<Bytes> {
    let frame = body.frame().await?;
    frame.unwrap().into_data().ok()
}

fn held(upload: &Upload) -> usize {
    upload.0.as_ref().unwrap().borrow().frames.len()
}

#[tokio::test]
async fn what_one_try_has_read_the_next_can_send() {
    let test = async {
        let (upload, mut caller) = upload().await;
        chunk(&mut caller, "one").await;
        let mut first = upload.next_try();
        assert_eq!(read(&mut first).await.unwrap(), "one");
        let mut second = upload.next_try();
        assert!(first.frame().await.unwrap().is_err(), "cut off");
        chunk(&mut caller, "two").await;
        end(&mut caller).await;
        assert_eq!(read(&mut second).await.unwrap(), "one");
        assert_eq!(read(&mut second).await.unwrap(), "two");
        assert_eq!(read(&mut second).await, None);
        assert!(upload.can_be_sent_again());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn what_its_caller_broke_off_no_try_sends_as_a_whole() {
    let test = async {
        let (upload, mut caller) = upload().await;
        chunk(&mut caller, "one").await;
        let mut first = upload.next_try();
        assert_eq!(read(&mut first).await.unwrap(), "one");
        drop(caller);
        assert!(first.frame().await.unwrap().is_err());
        assert!(upload.is_broken());
        assert!(!upload.can_be_sent_again());
        let mut second = upload.next_try();
        assert!(!second.is_end_stream());
        assert!(second.frame().await.unwrap().is_err());
        assert!(upload.whole().is_none());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_cut_off_try_learns_it_while_the_caller_keeps_it_waiting() {
    let test = async {
        for drains in [false, true] {
            let (upload, mut caller) = upload().await;
            chunk(&mut caller, "one").await;
            let mut first = upload.next_try();
            assert_eq!(read(&mut first).await.unwrap(), "one");
            let waiting = tokio::task::spawn_local(async move { first.frame().await });
            tokio::task::yield_now().await;
            assert!(upload.waits_for_caller());
            let second = if drains {
                upload.cut();
                None
            } else {
                Some(upload.next_try())
            };
            assert!(!upload.waits_for_caller());
            assert!(waiting.await.unwrap().unwrap().is_err());
            drop(second);
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn whether_the_caller_keeps_a_try_waiting_is_known() {
    let test = async {
        let (upload, mut caller) = upload().await;
        upload.measure();
        let mut only = upload.next_try();
        assert!(!upload.waits_for_caller() && upload.moved().is_none());
        chunk(&mut caller, "one").await;
        assert_eq!(read(&mut only).await.unwrap(), "one");
        let moved = upload.moved().unwrap();
        assert!(is_pending(&mut only).await && upload.waits_for_caller());
        end(&mut caller).await;
        assert_eq!(read(&mut only).await, None);
        assert!(!upload.waits_for_caller() && upload.moved().unwrap() >= moved);
    };
    LocalSet::new().run_until(test).await;
}

/// Polled once, it has nothing.
async fn is_pending(body: &mut UpBody) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx).is_pending())).await
}

#[tokio::test]
async fn without_another_try_nothing_is_kept() {
    let test = async {
        let (upload, mut caller) = upload().await;
        upload.keep_no_more();
        assert!(upload.can_be_sent_again(), "nobody has read it");
        let mut only = upload.next_try();
        chunk(&mut caller, "one").await;
        assert_eq!(read(&mut only).await.unwrap(), "one");
        assert_eq!(held(&upload), 0);
        assert!(!upload.can_be_sent_again());
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn what_was_read_goes_when_no_other_try_can_come() {
    let test = async {
        let (upload, mut caller) = upload().await;
        for text in ["one", "two"] {
            chunk(&mut caller, text).await;
        }
        let mut first = upload.next_try();
        for text in ["one", "two"] {
            assert_eq!(read(&mut first).await.unwrap(), text);
        }
        upload.keep_no_more();
        let mut second = upload.next_try();
        assert_eq!(read(&mut second).await.unwrap(), "one");
        upload.forget();
        assert_eq!(held(&upload), 2, "the second is still to be sent");
        assert_eq!(read(&mut second).await.unwrap(), "two");
        assert_eq!(held(&upload), 0);
        chunk(&mut caller, "three").await;
        assert_eq!(read(&mut second).await.unwrap(), "three");
        assert_eq!(held(&upload), 0);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn what_was_read_goes_with_the_response() {
    let test = async {
        let (upload, mut caller) = upload().await;
        chunk(&mut caller, "one").await;
        let mut only = upload.next_try();
        assert_eq!(read(&mut only).await.unwrap(), "one");
        assert_eq!(held(&upload), 1);
        upload.forget();
        assert_eq!(held(&upload), 0);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn small_pieces_count_by_what_they_cost() {
    let test = async {
        let (upload, mut caller) = upload().await;
        let mut only = upload.next_try();
        let most = KEPT / size_of::<Piece>();
        for made in 0..most {
            chunk(&mut caller, "x").await;
            read(&mut only).await.unwrap();
            if !upload.can_be_sent_again() {
                assert!(made > most / 2, "{made} of {most}");
                assert_eq!(held(&upload), 0);
                return;
            }
        }
        panic!("{} pieces are kept", held(&upload));
    };
    LocalSet::new().run_until(test).await;
}
