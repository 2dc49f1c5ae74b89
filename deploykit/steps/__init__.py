"""What child processes run: one file per step, joining verbs where torch may be imported."""
