use super::*;

struct Screen {
    consoles: Consoles,
    now: Instant,
}

impl Screen {
    fn new(names: &[&str]) -> Self {
        let guests = names.iter().map(|name| ((*name).to_owned(), Sink::Screen));
        Self {
            consoles: Consoles::new(guests.collect(), vec!["MARK".into()], "\n"),
            now: Instant::now(),
        }
    }

    #[track_caller]
    fn writes(&mut self, guest: usize, text: &str, shown: &str) {
        self.consoles.write(guest, text.as_bytes(), self.now);
        self.shows(shown);
    }

    #[track_caller]
    fn shows(&mut self, shown: &str) {
        assert_eq!(String::from_utf8_lossy(&self.consoles.take_screen()), shown);
    }

    #[track_caller]
    fn after(&mut self, milliseconds: u64, shown: &str) {
        self.now += Duration::from_millis(milliseconds);
        self.consoles.tick(self.now);
        self.shows(shown);
    }
}

#[test]
fn a_lone_guest_is_shown_byte_for_byte() {
    let mut screen = Screen::new(&["a"]);
    screen.writes(0, "x\x1b[6n\r", "x\x1b[6n\r");
    screen.writes(0, "\ny", "\ny");
    assert_eq!(screen.consoles.due(screen.now), None);
}

#[test]
fn lines_of_several_guests_carry_their_names() {
    let mut screen = Screen::new(&["a", "b"]);
    screen.writes(0, "one\r\ntw", "[a] one\n");
    screen.writes(1, "three\n", "[b] three\n");
    screen.writes(0, "o\n", "[a] two\n");
    screen.writes(7, "nobody\n", "");
}

#[test]
fn a_quiet_guests_line_is_shown_as_it_is() {
    let mut screen = Screen::new(&["a", "b"]);
    screen.writes(0, "login: ", "");
    assert_eq!(screen.consoles.due(screen.now), Some(QUIET));
    screen.after(100, "");
    screen.writes(0, "\x07", "");
    screen.after(100, "");
    screen.after(50, "[a] login: \n");
    assert_eq!(screen.consoles.due(screen.now), None);
    screen.writes(0, "root\n", "[a] root\n");
}

#[test]
fn the_focused_guest_is_not_interrupted_in_a_line() {
    let mut screen = Screen::new(&["a", "b"]);
    assert!(screen.consoles.set_focus(0));
    screen.writes(0, "begin ", "begin ");
    screen.writes(1, "other\n", "");
    screen.writes(0, "end\nnext", "end\nnext");
    screen.writes(0, "\n", "\n[b] other\n");
    screen.writes(1, "at once\n", "[b] at once\n");
}

#[test]
fn a_prompt_stands_again_below_what_came_between() {
    let mut screen = Screen::new(&["a", "b"]);
    assert!(screen.consoles.set_focus(0));
    screen.writes(0, "hello\n# ", "hello\n# ");
    screen.after(200, "");
    screen.writes(1, "other\n", "");
    screen.after(1, "\n[b] other\n# ");
    screen.after(200, "");
    screen.writes(0, "ls\n", "ls\n");
}

#[test]
fn the_focus_moves_between_consoles_on_the_screen() {
    let directory = tempfile::tempfile().expect("a temporary file");
    let guests = [
        ("a", Sink::Screen),
        ("b", Sink::File(directory)),
        ("c", Sink::Screen),
    ];
    let guests = guests.map(|(name, sink)| (name.to_owned(), sink));
    let mut screen = Screen {
        consoles: Consoles::new(guests.into(), Vec::new(), "\n"),
        now: Instant::now(),
    };
    assert_eq!(screen.consoles.focus(), None);
    assert_eq!(screen.consoles.next(), Some(0));
    assert!(screen.consoles.set_focus(0));
    screen.writes(0, "part", "part");
    screen.writes(2, "# ", "");
    assert_eq!(screen.consoles.next(), Some(2));
    assert!(screen.consoles.set_focus(2));
    screen.shows("\n# ");
    screen.writes(2, "x", "x");
    screen.writes(0, " of a line\n", "");
    screen.after(200, "\n[a]  of a line\n# x");
    assert_eq!(screen.consoles.next(), Some(0));
    assert!(!screen.consoles.set_focus(1) && !screen.consoles.set_focus(3));
}

#[test]
fn nothing_is_left_at_the_end() {
    let mut screen = Screen::new(&["a", "b"]);
    assert!(screen.consoles.set_focus(0));
    screen.writes(0, "last", "last");
    screen.writes(1, "MARK 7", "");
    assert_eq!(
        screen.consoles.finish(),
        [vec![], vec!["MARK 7".to_owned()]]
    );
    screen.shows("\n[b] MARK 7\n");
}

#[test]
fn marked_lines_belong_to_their_guests() {
    let mut screen = Screen::new(&["a", "b"]);
    screen.writes(
        0,
        "[    1.5] MARK a\r\n no MARK\n",
        "[a] [    1.5] MARK a\n[a]  no MARK\n",
    );
    screen.consoles.write(1, b"MARK b\n", screen.now);
    assert_eq!(screen.consoles.finish(), [["MARK a"], ["MARK b"]]);
}

#[test]
fn other_guests_do_not_move_the_cursor() {
    assert_eq!(plain(b"\x1b[1;31mred\x1b[0m \x07\tx\x1b[6n\r\n"), "red \tx");
    assert_eq!(plain(b"\x1b[999"), "");
    assert_eq!(plain(b"a\xffb"), "a\u{fffd}b");
}

#[test]
fn the_screen_stands_still_while_a_command_is_typed() {
    let mut screen = Screen::new(&["a", "b"]);
    assert!(screen.consoles.set_focus(0));
    screen.writes(0, "shell # ", "shell # ");
    assert!(!screen.consoles.holds(b"said"), "nothing is typed yet");
    screen.consoles.show_prompt("trapline> ".into());
    screen.writes(0, "\ntick\n", "");
    screen.writes(1, "tock\n", "");
    screen.consoles.show_prompt("trapline> li".into());
    assert!(screen.consoles.holds(b"a word\n"));
    assert_eq!(screen.consoles.close_prompt(), b"a word\n");
    // What stood on the guest's line stands there again.
    screen.shows("shell # \ntick\n[b] tock\n");
    assert_eq!(screen.consoles.close_prompt(), b"");
}

#[test]
fn very_much_is_shown_above_the_command() {
    let mut screen = Screen::new(&["a"]);
    screen.writes(0, "# ", "# ");
    screen.consoles.show_prompt("trapline> li".into());
    let much = "x".repeat(MOST_HELD - 2) + "\n";
    screen.writes(0, &much, "");
    screen.writes(0, "y", &format!("\r\x1b[K# {much}y\ntrapline> li"));
    screen.writes(0, "z", "");
    screen.consoles.close_prompt();
    screen.shows("yz");
}
