use super::*;
use crate::domain::connection::SimulatedProfile;
pub struct Simulated;
impl Simulated {
    pub fn new(_d: SimulatedProfile, _m: Vec<(String, SimulatedProfile)>) -> Self {
        Self
    }
}
impl Dispatch for Simulated {
    fn call(&self, _c: Call) -> BoxFuture<'_, Result<Answer, CallError>> {
        todo!()
    }
}
