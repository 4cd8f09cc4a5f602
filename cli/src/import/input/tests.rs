//! Files and pipes, read more than once.

use std::io::Write as _;

use super::*;

fn text(pass: Pass) -> String {
    let mut text = String::new();
    pass.lines().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn every_pass_reads_what_the_file_had_when_it_was_opened() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"one\ntwo\n").unwrap();
    let mut input = Input::open(file.path()).unwrap();
    file.write_all(b"three\n").unwrap();
    assert_eq!(input.pass().total(), Some(8));
    let stop = CancellationToken::new();
    let mut input = input.kept(&stop).await.unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(text(input.pass()), "one\ntwo\n");
    }
}

#[tokio::test]
async fn a_pipe_is_kept_until_it_was_read_twice() {
    let (reader, mut writer) = io::pipe().unwrap();
    let writing = std::thread::spawn(move || {
        for _ in 0..100_000 {
            writer.write_all(b"a line\n").unwrap();
        }
    });
    let input = Input(Kept::Stream(Box::new(reader)));
    let mut input = input.kept(&CancellationToken::new()).await.unwrap().unwrap();
    writing.join().unwrap();
    assert_eq!(input.pass().total(), Some(700_000));
    for _ in 0..2 {
        assert_eq!(text(input.pass()).len(), 700_000);
    }
}

#[tokio::test]
async fn a_pipe_that_stays_silent_can_be_left() {
    let (reader, _writer) = io::pipe().unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(Input(Kept::Stream(Box::new(reader))).kept(&stop).await.unwrap().is_none());
}

#[test]
fn a_pipe_that_is_read_once_gives_its_first_line_at_once() {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(b"192.0.2.1 - - the first line\n").unwrap();
    let mut lines = Input(Kept::Stream(Box::new(reader))).pass().lines().unwrap();
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "192.0.2.1 - - the first line\n");
}

#[test]
fn what_is_no_log_is_refused_when_it_is_opened() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"\xfd7zXZ\0\0\0").unwrap();
    let error = Input::open(file.path()).err().unwrap();
    let said = format!("{error:#}");
    assert!(
        said.contains("cannot be imported: it is an xz file, not a log of lines: unpack it first"),
        "{said}"
    );
    let dir = tempfile::tempdir().unwrap();
    assert!(Input::open(dir.path()).err().unwrap().to_string().ends_with("is a directory"));
}
