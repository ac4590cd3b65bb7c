//! A catalog folder that is edited in every way that people and tools use, and the states that
//! readers may see.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Identifies a state of the folder: the provider's name and the models' names.
pub type Signature = (String, Vec<String>);

/// The states that the folder has had or may have at this moment. No other state may ever be seen.
#[derive(Default)]
pub struct Legal(Mutex<HashSet<Signature>>);

impl Legal {
    fn allow(&self, signature: Signature) {
        self.0.lock().expect("no reader panicked").insert(signature);
    }

    pub fn check(&self, seen: &Signature) {
        assert!(self.0.lock().expect("no reader panicked").contains(seen), "{seen:?} was never a good state of the folder");
    }
}

pub fn provider(name: &str) -> String {
    format!("schema = 1\nid = \"sim\"\nname = \"{name}\"\nkind = \"simulated\"\n")
}

fn model(name: &str) -> String {
    // Long enough that a writer that writes in pieces needs several.
    let padding = format!("# {}\n", "x".repeat(200)).repeat(100);
    format!(
        "schema = 1\n{padding}[[model]]\nid = \"{name}\"\norganisation = \"Test\"\nreleased = 2026-01-01\nendpoints = [\"/v1/responses\"]\n\
         [[model.offering]]\nprovider = \"sim\"\n"
    )
}

/// The folder.
pub struct Folder {
    root: PathBuf,
    legal: Arc<Legal>,
    /// The state of the folder when it is good.
    pub good: Signature,
    /// The file that holds the model, relative to the folder.
    file: String,
    edits: u32,
}

impl Folder {
    pub fn new(root: &Path, legal: Arc<Legal>) -> Self {
        let folder = Self { root: root.to_owned(), legal, good: ("P0".into(), vec!["m0".into()]), file: "models/m.toml".into(), edits: 0 };
        folder.legal.allow(folder.good.clone());
        folder.fill(&root.join("release-0"));
        symlink("release-0", folder.path()).expect("the folder can be changed");
        folder
    }

    /// The path of the folder as the daemon knows it: a link to the release that is in use.
    pub fn path(&self) -> PathBuf {
        self.root.join("catalog")
    }

    pub fn fill(&self, dir: &Path) {
        fs::create_dir_all(dir.join("providers")).expect("the folder can be changed");
        fs::create_dir_all(dir.join("models")).expect("the folder can be changed");
        fs::write(dir.join("providers/sim.toml"), provider(&self.good.0)).expect("the folder can be changed");
        fs::write(dir.join(&self.file), model(&self.good.1[0])).expect("the folder can be changed");
    }

    /// The state after the next good edit of the model.
    fn next(&mut self) -> String {
        self.edits += 1;
        let name = format!("m{}", self.edits);
        self.good.1 = vec![name.clone()];
        self.legal.allow(self.good.clone());
        name
    }

    /// Makes one good edit; each way takes the folder from any state, broken ones included, to a
    /// good one.
    pub fn edit(&mut self, rng: &mut fastrand::Rng) {
        let path = self.path();
        let before = self.good.clone();
        let name = self.next();
        // Damage left by a bad edit is repaired first or by the edit itself.
        fs::create_dir_all(path.join("providers")).expect("the folder can be changed");
        match rng.u8(..7) {
            0 => fs::write(path.join(&self.file), model(&name)).expect("the folder can be changed"),
            1 => {
                let aside = path.join("models/.m.swp");
                fs::write(&aside, model(&name)).expect("the folder can be changed");
                fs::rename(aside, path.join(&self.file)).expect("the folder can be changed");
            }
            2 => {
                // Under another name; for a moment both files exist.
                self.legal.allow((before.0.clone(), {
                    let mut both = vec![before.1[0].clone(), name.clone()];
                    both.sort();
                    both
                }));
                let old = std::mem::replace(&mut self.file, format!("models/m{}.toml", self.edits));
                fs::write(path.join(&self.file), model(&name)).expect("the folder can be changed");
                fs::remove_file(path.join(old)).expect("the folder can be changed");
            }
            3 => {
                // As deployment tools do: a new release, then the link to it is swapped. Both files
                // change at once.
                self.good.0 = format!("P{}", self.edits);
                self.legal.allow(self.good.clone());
                let release = format!("release-{}", self.edits);
                self.fill(&self.root.join(&release));
                symlink(&release, self.root.join("new")).expect("the folder can be changed");
                fs::rename(self.root.join("new"), &path).expect("the folder can be changed");
                return;
            }
            4 => {
                // As container mounts do: the file itself is a link.
                let target = self.root.join(format!("file-{}", self.edits));
                fs::write(&target, model(&name)).expect("the folder can be changed");
                symlink(&target, self.root.join("new")).expect("the folder can be changed");
                fs::rename(self.root.join("new"), path.join(&self.file)).expect("the folder can be changed");
            }
            5 => {
                let real = path.canonicalize().expect("the folder can be changed");
                fs::remove_dir_all(&real).expect("the folder can be changed");
                self.fill(&real);
            }
            _ => {
                // In pieces, as over a slow line.
                use std::io::Write as _;
                let mut file = fs::File::create(path.join(&self.file)).expect("the folder can be changed");
                for piece in model(&name).as_bytes().chunks(8_000) {
                    file.write_all(piece).expect("the folder can be changed");
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
        fs::write(path.join("providers/sim.toml"), provider(&self.good.0)).expect("the folder can be changed");
    }

    /// Makes one bad edit: from now on the folder cannot be loaded.
    pub fn damage(&self, rng: &mut fastrand::Rng) {
        let path = self.path();
        let file = path.join(&self.file);
        let whole = model("broken");
        match rng.u8(..6) {
            0 => fs::write(&file, &whole[..whole.find("organisation = \"T").expect("the folder can be changed") + 16])
                .expect("the folder can be changed"),
            1 => fs::write(&file, whole.replace("released", "relaesed")).expect("the folder can be changed"),
            2 => fs::write(&file, whole.replace("/v1/responses", "/v1/chat")).expect("the folder can be changed"),
            3 => fs::remove_file(path.join("providers/sim.toml")).expect("the folder can be changed"),
            4 => fs::write(path.join("models/z.toml"), "schema = 1\n").expect("the folder can be changed"),
            _ => fs::write(&file, b"\xff\xfe").expect("the folder can be changed"),
        }
    }

    /// Removes anything that [`Self::damage`] may have left beside the model.
    pub fn tidy(&self) {
        let _ = fs::remove_file(self.path().join("models/z.toml"));
    }
}
