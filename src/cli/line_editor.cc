#include "cli/line_editor.h"

#include <histedit.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "cli/terminal.h"

namespace qnext::cli {

namespace fs = std::filesystem;

struct LineEditor::Terminal {
  EditLine* edit = nullptr;
  History* history = nullptr;
  HistEvent event = {};
  fs::path file;
  std::string prompt;

  explicit Terminal(fs::path history_file) : file(std::move(history_file)) {
    edit = el_init("qnext", stdin, stdout, stderr);
    history = history_init();
    ::history(history, &event, H_SETSIZE, 1000);
    ::history(history, &event, H_SETUNIQUE, 1);
    el_set(edit, EL_CLIENTDATA, this);
    el_set(
        edit, EL_PROMPT, +[](EditLine* self) -> char* {
          Terminal* terminal = nullptr;
          el_get(self, EL_CLIENTDATA, &terminal);
          return terminal->prompt.data();
        });
    el_set(edit, EL_EDITOR, "emacs");
    el_set(edit, EL_SIGNAL, 0);  // Ctrl-C belongs to catch_interrupts()
    el_set(edit, EL_HIST, ::history, history);
    el_set(edit, EL_BIND, "^R", "em-inc-search-prev", nullptr);
    // Ctrl-D typed while an answer is written: the terminal hands it over as a NUL once the editor reads.
    el_set(edit, EL_BIND, "^@", "ed-end-of-file", nullptr);
    el_source(edit, nullptr);
    if (file.empty()) return;
    std::error_code ignored;
    fs::create_directories(file.parent_path(), ignored);
    ::history(history, &event, H_LOAD, file.c_str());
  }
  ~Terminal() {
    history_end(history);
    el_end(edit);
  }

  void remember(const std::string& line) {
    ::history(history, &event, H_ENTER, line.c_str());
    if (file.empty()) return;
    ::history(history, &event, H_SAVE, file.c_str());
    std::error_code ignored;  // what people type is theirs alone
    fs::permissions(file, fs::perms::owner_read | fs::perms::owner_write, ignored);
  }
};

LineEditor::LineEditor(fs::path history) {
  if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) terminal_ = std::make_unique<Terminal>(std::move(history));
}

LineEditor::~LineEditor() = default;

LineEditor::Outcome LineEditor::read(const std::string& prompt, std::string& line) {
  line.clear();
  for (std::string part, shown = prompt;; shown = "| ") {
    const Outcome outcome = read_physical(shown, part);
    if (outcome != Outcome::kLine) {
      return outcome == Outcome::kEnd && !line.empty() ? Outcome::kLine : outcome;
    }
    const bool continues = part.ends_with('\\');
    if (continues) part.pop_back();
    line += part;
    if (!continues) return Outcome::kLine;
    line += '\n';
  }
}

LineEditor::Outcome LineEditor::read_physical(const std::string& prompt, std::string& line) {
  if (!terminal_) {
    if (std::getline(std::cin, line)) return Outcome::kLine;
    return interrupted() ? Outcome::kInterrupted : Outcome::kEnd;
  }
  terminal_->prompt = prompt;
  int length = 0;
  const char* text = nullptr;
  {
    const InterruptibleRead read;
    if (!interrupted()) text = el_gets(terminal_->edit, &length);
  }
  if (interrupted()) {
    el_reset(terminal_->edit);
    std::fputs("\n", stdout);
    return Outcome::kInterrupted;
  }
  if (!text || length <= 0) {
    std::fputs("\n", stdout);
    return Outcome::kEnd;
  }
  line.assign(text, length);
  if (line.ends_with('\n')) line.pop_back();
  if (!line.empty()) terminal_->remember(line);
  return Outcome::kLine;
}

fs::path history_path() {
  if (const char* state = std::getenv("XDG_STATE_HOME"); state && *state) return fs::path(state) / "qnext/history";
  if (const char* home = std::getenv("HOME"); home && *home) return fs::path(home) / ".local/state/qnext/history";
  return {};
}

}  // namespace qnext::cli
